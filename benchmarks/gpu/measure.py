"""`python -m benchmarks.gpu.measure PART [CASE]`: one part of benchmarks.gpu, its rows on stdout
as they come."""

import dataclasses
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.decoding import decoding
from benchmarks.gpu.kernels import kernels
from benchmarks.gpu.rows import CUDA, row
from benchmarks.training import Case, every_case, measure


def machine() -> None:
    """What computes here, and what of our own runs on it."""
    from devopsgpt_model.device import has_triton

    row("python", platform.python_version())
    row("torch", torch.__version__)
    row("processors", float(os.cpu_count() or 0))
    if not CUDA:
        row("GPU", "none: the smallest sizes follow")
        row("triton for its interpreter", "yes" if find_spec("triton") else "no")
        return
    free, whole = torch.cuda.mem_get_info()
    row("GPU", torch.cuda.get_device_name())
    row("memory", whole / 2**30, "GiB")
    row("memory that is free", free / 2**30, "GiB")
    row("CUDA", str(torch.version.cuda))
    row("Triton's kernels run", "yes" if has_triton(torch.device("cuda")) else "no")


def finetuning() -> None:
    """finetune_sre_small from bins to checkpoint, on as much text as the books are."""
    from benchmarks import finetuning as whole
    from benchmarks.serving import make_tokenizer
    from devopsgpt_model.config import GPT2_SIZES, PRESETS

    config = dataclasses.replace(
        PRESETS["finetune_sre_small"], device="cuda" if CUDA else "cpu", compile="off"
    )
    shape, size = GPT2_SIZES["gpt2"], 700_000  # pairs of bytes: as many tokens as the books have
    if not CUDA:
        shape = dataclasses.replace(shape, block_size=64, n_layer=2, n_head=2, n_embd=64)
        shrunk: dict[str, Any] = {
            "max_steps": 4,
            "eval_interval": 2,
            "grad_accum_steps": 2,
            "block_size": 64,
        }
        config, size = dataclasses.replace(config, **shrunk), 20_000
    with tempfile.TemporaryDirectory() as place:
        words = ["a steady", "service", "answers", "its users", "while", "a slow one", "waits;"]
        text = " ".join(words[number * number % 7] for number in range(size // 3))
        whole.prepare(Path(place), text[:size], make_tokenizer(), shape)
        for what, seconds in whole.measure(Path(place), config, "run").items():
            row(f"finetune_sre_small, {what}", seconds, "s")


def training(name: str) -> None:
    """Ours against nanoGPT, compiled where that pays."""
    case: Case = every_case()[name]
    contenders = ["nanogpt-compiled", "ours-compiled"] if CUDA else ["nanogpt", "ours"]
    if name == "gpt2" and CUDA:
        contenders.append("ours")
    rows = measure(name, case, contenders, 2 if name == "gpt2" and CUDA else 1)
    base = next((each for each in rows if each["contender"] == contenders[0]), None)
    for each in rows:
        who = f"{name}, {each['contender']}"
        row(who, each["tokens_per_second"], "tokens/s")
        if base and each is not base:
            row(f"{who}, ratio", each["tokens_per_second"] / base["tokens_per_second"])
        row(f"{who}, MFU", 100 * each["mfu"], "%")
        row(f"{who}, peak memory", each["peak_gb"], "GB")
        row(f"{who}, first step", each["start_seconds"], "s")
    if len(rows) < len(contenders):
        raise SystemExit(f"{len(contenders) - len(rows)} contenders ended; their errors are above")


PARTS: dict[str, Callable[..., None]] = {
    "machine": machine,
    "decoding": decoding,
    "kernels": kernels,
    "finetuning": finetuning,
    "training": training,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
