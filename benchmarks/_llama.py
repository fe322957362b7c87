"""llama.cpp, and a file of GPT-2 weights as it reads them; a peer of benchmarks/serving.py."""

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._serving_answer import MOST_SEQUENCES, Answer
from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.gpt import GPT

KEPT: list[Any] = []  # what C goes on calling


def llama_cpp(folder: Path, precision: str) -> Answer:
    """llama.cpp through its C interface, all sequences in one llama_decode a step."""
    import llama_cpp as llama

    context, vocab_size = _load(llama, folder, precision)
    batch = llama.llama_batch_init(2048, 0, 1)

    def decode(placed: Iterator[tuple[int, int, int, bool]]) -> list[int]:
        """The likeliest next tokens.

        placed: (token, position, sequence, whether its logits are asked for)
        """
        asked, count = [], 0
        for count, (token, position, sequence, wanted) in enumerate(placed, 1):
            at = count - 1
            batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.logits[at] = (
                token,
                position,
                1,
                wanted,
            )
            batch.seq_id[at][0] = sequence
            asked += [at] if wanted else []
        batch.n_tokens = count
        if llama.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        rows = (
            np.ctypeslib.as_array(llama.llama_get_logits_ith(context, at), (vocab_size,))
            for at in asked
        )
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
            ids = decode(
                (token, length + step, sequence, True) for sequence, token in enumerate(ids)
            )
        return [new] * len(prompts), first

    return answer


def _load(llama: Any, folder: Path, precision: str) -> tuple[Any, int]:
    """llama.cpp's context over the weights of a checkpoint, and the tokenizer's vocab_size."""
    checkpoint, path = load_checkpoint(folder, "cpu"), folder.parent / f"{precision}.gguf"
    if not path.exists():
        write_gguf(checkpoint.model, path, precision)
    llama.llama_backend_init()
    quiet = llama.llama_log_callback(lambda *_: None)
    KEPT.append(quiet)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    settings = llama.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = (
        256 * 32,
        2048,
        512,
        MOST_SEQUENCES,
    )
    settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
    context = llama.llama_init_from_model(model, settings)
    if not model or not context:
        raise RuntimeError(f"llama.cpp does not load {path}")
    return context, checkpoint.tokenizer.vocab_size


def write_gguf(model: GPT, path: Path, precision: str) -> None:
    """The weights as llama.cpp reads them, without a vocabulary. precision: f32, bf16 or q8_0"""
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
            names |= {
                f"h.{layer}.{part}.{kind}": f"blk.{layer}.{theirs}.{kind}"
                for kind in ("weight", "bias")
            }
    for name, parameter in model.named_parameters():
        content = parameter.detach().numpy()[: config.vocab_size if name == "wte.weight" else None]
        plain = content.ndim == 1 or name == "wpe.weight"
        stored = np.ascontiguousarray(content) if plain else gguf.quants.quantize(content, form)
        writer.add_tensor(
            names[name], stored, raw_dtype=gguf.GGMLQuantizationType.F32 if plain else form
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
