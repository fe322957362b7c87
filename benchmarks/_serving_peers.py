"""The engines that benchmarks/serving.py compares, each behind the same two lines: load a model, answer a batch.

Every one decodes greedily and gives back how long the first tokens took. What a peer needs is imported in its class.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.engine import Engine
from devopsgpt_serving.lane import LoadedModel
from devopsgpt_serving.precision import choose_precision
from devopsgpt_serving.runner import EagerRunner
from devopsgpt_serving.sampling import Sampling
from devopsgpt_serving.sequence import Finished, Progress, Report, Sequence
from devopsgpt_serving.version_cache import Version

MOST_SEQUENCES = 32
Answer = Callable[[list[list[int]], int], tuple[list[int], float]]
"""(prompts, new tokens of each) -> (tokens made for each prompt, seconds until every prompt had its first)"""


def ours(folder: Path, precision: str) -> Answer:
    """Our engine with its thread, scheduling and text, as the service runs it."""
    checkpoint = load_checkpoint(folder, "cpu")
    runner = EagerRunner(checkpoint.model, MOST_SEQUENCES, choose_precision(precision, torch.device("cpu")))
    engine = Engine(max_running=MOST_SEQUENCES, max_queue=0, prefill_chunk=128)
    engine.install(LoadedModel(Version("bench", "1", "", 0, {}), runner, checkpoint.tokenizer))
    engine.start()

    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        began, firsts, ended = time.perf_counter(), {}, threading.Semaphore(0)

        def listen(index: int) -> Callable[[Report], None]:
            def report(what: Report) -> None:
                if isinstance(what, Progress):
                    firsts.setdefault(index, time.perf_counter() - began)
                else:
                    ended.release()
                    if not isinstance(what, Finished):
                        raise RuntimeError(f"the engine gave up: {what}")

            return report

        settings = Sampling(max_tokens=new, temperature=0.0)
        sequences = [Sequence(prompt, settings, listen(index)) for index, prompt in enumerate(prompts)]
        lane = engine.current
        if lane is None:
            raise RuntimeError("the engine has no model")
        for row in lane.rows:
            row.held = []  # prompts are computed anew each time, as the peers compute them
        engine.submit(lane, sequences)
        for _ in sequences:
            ended.acquire()
        return [len(sequence.tokens) for sequence in sequences], max(firsts.values())

    return answer


def transformers(folder: Path, precision: str) -> Answer:
    """transformers' generate with its KV cache."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    model.generation_config.eos_token_id = None

    def run(idx: Tensor, new: int) -> Tensor:
        tokens: Tensor = model.generate(
            idx, attention_mask=torch.ones_like(idx), max_new_tokens=new, min_new_tokens=new, do_sample=False
        )
        return tokens[:, idx.size(1) :]

    return _in_two_calls(run)


def nanogpt(folder: Path, _: str) -> Answer:
    """nanoGPT's way: the whole text through the network for each token."""
    model: GPT = load_checkpoint(folder, "cpu").model

    @torch.inference_mode()
    def run(idx: Tensor, new: int) -> Tensor:
        length = idx.size(1)
        for _ in range(new):
            last = model.logits(model.hidden(idx)[:, -1])
            idx = torch.cat((idx, last.argmax(-1, keepdim=True)), dim=1)
        return idx[:, length:]

    return _in_two_calls(run)


def _in_two_calls(run: Callable[[Tensor, int], Tensor]) -> Answer:
    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        began = time.perf_counter()
        run(torch.tensor(prompts), 1)
        first = time.perf_counter() - began
        return [len(row) for row in run(torch.tensor(prompts), new)] if new > 1 else [1] * len(prompts), first

    return answer


def ctranslate2(folder: Path, precision: str) -> Answer:
    """CTranslate2's Generator, converted from the Hugging Face layout."""
    import ctranslate2 as ct2

    converted = folder.parent / f"ctranslate2-{precision}"
    if not converted.exists():
        ct2.converters.TransformersConverter(str(folder)).convert(str(converted), quantization=precision)
    generator = ct2.Generator(str(converted), compute_type=precision, intra_threads=torch.get_num_threads())
    names = load_checkpoint(folder, "cpu").tokenizer
    symbols = _symbols(folder, names.vocab_size)

    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        spelled = [[symbols[token] for token in prompt] for prompt in prompts]
        settings = dict(sampling_topk=1, include_prompt_in_result=False, end_token=[], batch_type="examples")
        began = time.perf_counter()
        generator.generate_batch(spelled, min_length=1, max_length=1, **settings)
        first = time.perf_counter() - began
        if new == 1:
            return [1] * len(prompts), first
        results = generator.generate_batch(spelled, min_length=new, max_length=new, **settings)
        return [len(result.sequences_ids[0]) for result in results], first

    return answer


def _symbols(folder: Path, vocab_size: int) -> list[str]:
    import json

    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    symbols = ["<|endoftext|>"] * vocab_size
    for symbol, token in vocab.items():
        symbols[token] = symbol
    return symbols


def llama_cpp(folder: Path, precision: str) -> Answer:
    """llama.cpp through its C interface, all sequences in one llama_decode a step."""
    import llama_cpp as llama

    path = folder.parent / f"{precision}.gguf"
    if not path.exists():
        write_gguf(load_checkpoint(folder, "cpu").model, path, precision)
    llama.llama_backend_init()
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    settings = llama.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = 256 * 32, 2048, 512, MOST_SEQUENCES
    settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
    context = llama.llama_init_from_model(model, settings)
    if not model or not context:
        raise RuntimeError(f"llama.cpp does not load {path}")
    vocab_size = load_checkpoint(folder, "cpu").tokenizer.vocab_size
    batch = llama.llama_batch_init(2048, 0, 1)

    def decode(placed: Iterator[tuple[int, int, int, bool]]) -> list[int]:
        """placed: (token, position, sequence, whether its logits are asked for). returns: the likeliest next tokens"""
        asked, count = [], 0
        for count, (token, position, sequence, wanted) in enumerate(placed, 1):
            at = count - 1
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = token, position, 1, wanted
            batch.seq_id[at][0] = sequence
            asked += [at] if wanted else []
        batch.n_tokens = count
        if llama.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        rows = (np.ctypeslib.as_array(llama.llama_get_logits_ith(context, at), (vocab_size,)) for at in asked)
        return [int(row.argmax()) for row in rows]

    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        began = time.perf_counter()
        ids = decode(
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        )
        first, length = time.perf_counter() - began, len(prompts[0])
        for step in range(new - 1):
            ids = decode((token, length + step, sequence, True) for sequence, token in enumerate(ids))
        return [new] * len(prompts), first

    return answer


def write_gguf(model: GPT, path: Path, precision: str) -> None:
    """The weights as llama.cpp reads them, without a vocabulary. precision: "f32", "bf16", "q8_0" """
    import gguf

    form = gguf.GGMLQuantizationType[precision.upper()]
    writer, config = gguf.GGUFWriter(str(path), "gpt2"), model.config
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    parts = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    parts |= {"ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    names = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight"}
    names |= {f"ln_f.{kind}": f"output_norm.{kind}" for kind in ("weight", "bias")}
    for layer in range(config.n_layer):
        for part, theirs in parts.items():
            names |= {f"h.{layer}.{part}.{kind}": f"blk.{layer}.{theirs}.{kind}" for kind in ("weight", "bias")}
    for name, parameter in model.named_parameters():
        content = parameter.detach().numpy()[: config.vocab_size if name == "wte.weight" else None]
        plain = content.ndim == 1 or name == "wpe.weight"
        stored = np.ascontiguousarray(content) if plain else gguf.quants.quantize(content, form)
        writer.add_tensor(names[name], stored, raw_dtype=gguf.GGMLQuantizationType.F32 if plain else form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


PEERS: dict[str, tuple[Callable[[Path, str], Answer], str]] = {
    "ours float32": (ours, "float32"),
    "ours bfloat16": (ours, "bfloat16"),
    "ours int8": (ours, "int8"),
    "ctranslate2 float32": (ctranslate2, "float32"),
    "ctranslate2 int8": (ctranslate2, "int8"),
    "llama.cpp f32": (llama_cpp, "f32"),
    "llama.cpp bf16": (llama_cpp, "bf16"),
    "llama.cpp q8_0": (llama_cpp, "q8_0"),
    "transformers float32": (transformers, "float32"),
    "transformers bfloat16": (transformers, "bfloat16"),
    "nanoGPT float32": (nanogpt, "float32"),
}
