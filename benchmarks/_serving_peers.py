"""The engines that benchmarks/serving.py compares, each behind the same two lines: load a model,
answer a batch.

Every one decodes greedily and gives back how long the first tokens took. What a peer needs is
imported in its class.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._llama import llama_cpp
from benchmarks._onnx import onnxruntime
from benchmarks._serving_answer import MOST_SEQUENCES, Answer
from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.scheduler import BatchScheduler
from devopsgpt_serving.engine.sequence import Finished, NewText, Report, Sequence
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import loader


def ours(folder: Path, precision: str, forget: bool = True) -> Answer:
    """Our engine with its thread, scheduling and text, as the service loads and runs it.

    forget: compute every prompt anew, as the peers do
    """
    version = Version("bench", "1", "", 0, {})
    engine = Engine(max_running=MOST_SEQUENCES, max_queue=0, prefill_chunk=128)
    engine.install(loader("cpu", precision, MOST_SEQUENCES)(version, folder.parent))
    engine.start()

    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        firsts: dict[int, float] = {}
        began, ended = time.perf_counter(), threading.Semaphore(0)

        def listen(index: int) -> Callable[[Report], None]:
            def report(what: Report) -> None:
                if isinstance(what, NewText):
                    firsts.setdefault(index, time.perf_counter() - began)
                else:
                    ended.release()
                    if not isinstance(what, Finished):
                        raise RuntimeError(f"the engine gave up: {what}")

            return report

        settings = Sampling(max_tokens=new, temperature=0.0)
        sequences = [
            Sequence(prompt, settings, listen(index)) for index, prompt in enumerate(prompts)
        ]
        scheduler = engine.current
        if not isinstance(scheduler, BatchScheduler):
            raise RuntimeError("the engine has no model")
        for slot in scheduler.slots if forget else ():
            slot.held = []
        engine.submit(scheduler, sequences)
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
            idx,
            attention_mask=torch.ones_like(idx),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
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
        return [len(row) for row in run(torch.tensor(prompts), new)] if new > 1 else [1] * len(
            prompts
        ), first

    return answer


def ctranslate2(folder: Path, precision: str) -> Answer:
    """CTranslate2's Generator, converted from the Hugging Face layout."""
    import ctranslate2 as ct2

    converted = folder.parent / f"ctranslate2-{precision}"
    if not converted.exists():
        ct2.converters.TransformersConverter(str(folder)).convert(
            str(converted), quantization=precision
        )
    generator = ct2.Generator(
        str(converted), compute_type=precision, intra_threads=torch.get_num_threads()
    )
    names = load_checkpoint(folder, "cpu").tokenizer
    symbols = _symbols(folder, names.vocab_size)

    def answer(prompts: list[list[int]], new: int) -> tuple[list[int], float]:
        spelled = [[symbols[token] for token in prompt] for prompt in prompts]
        settings = dict(
            sampling_topk=1, include_prompt_in_result=False, end_token=[], batch_type="examples"
        )
        began = time.perf_counter()
        generator.generate_batch(spelled, min_length=1, max_length=1, **settings)
        first = time.perf_counter() - began
        if new == 1:
            return [1] * len(prompts), first
        results = generator.generate_batch(spelled, min_length=new, max_length=new, **settings)
        return [len(result.sequences_ids[0]) for result in results], first

    return answer


def _symbols(folder: Path, vocab_size: int) -> list[str]:
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    symbols = ["<|endoftext|>"] * vocab_size
    for symbol, token in vocab.items():
        symbols[token] = symbol
    return symbols


PEERS: dict[str, tuple[Callable[[Path, str], Answer], str]] = {
    "ours float32": (ours, "float32"),
    "ours bfloat16": (ours, "bfloat16"),
    "ours int8": (ours, "int8"),
    "ctranslate2 float32": (ctranslate2, "float32"),
    "ctranslate2 int8": (ctranslate2, "int8"),
    "onnxruntime int8": (onnxruntime, "int8"),
    "llama.cpp f32": (llama_cpp, "f32"),
    "llama.cpp bf16": (llama_cpp, "bf16"),
    "llama.cpp q8_0": (llama_cpp, "q8_0"),
    "transformers float32": (transformers, "float32"),
    "transformers bfloat16": (transformers, "bfloat16"),
    "nanoGPT float32": (nanogpt, "float32"),
}
