"""Training steps of ours and of nanoGPT's recipe, alternating, on the same shapes.

`python -m benchmarks.training --case 6x384` prints tokens/s, peak memory and MFU of each, with
ratios to nanoGPT eager. MFU is against the matrix rate measured in the same run, in the number
format of our steps: bfloat16 where the processor has it, else float32. Every contender is a process
of its own that waits while the others run, so that each has its own peak of memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from devopsgpt_model.config import GPT2_SIZES, GPTConfig, TrainingConfig

CONTENDERS = ("nanogpt", "nanogpt-compiled", "ours", "ours-compiled")
SMALLEST = "2x64"


@dataclass(frozen=True)
class Case:
    """A shape and how much of it a step takes. steps: of each turn"""

    config: GPTConfig
    batch_size: int
    accum: int
    steps: int


def cases() -> dict[str, Case]:
    """What this machine can measure: two cases on a CPU, the four sizes on CUDA."""
    if torch.cuda.is_available():
        # micro-batches that fill a large GPU: batch_size * 1024 tokens each
        return {
            size: Case(GPT2_SIZES[size], 32 if size == "gpt2" else 16, 4, 4) for size in GPT2_SIZES
        }
    gpt2 = replace(GPT2_SIZES["gpt2"], block_size=256)
    small = replace(gpt2, n_layer=6, n_head=6, n_embd=384)
    # 4 * 256 = 1,024 tokens/step
    return {"6x384": Case(small, 4, 1, 6), "gpt2": Case(gpt2, 4, 1, 2)}


def every_case() -> dict[str, Case]:
    """And, on a CPU, one so small that it shows nothing but that all of this works."""
    if torch.cuda.is_available():
        return cases()
    tiny = replace(GPT2_SIZES["gpt2"], block_size=64, n_layer=2, n_head=2, n_embd=64)
    return {**cases(), SMALLEST: Case(tiny, 2, 1, 1)}


def make_step(contender: str, case: Case) -> Any:
    """A function that trains one step."""
    tokens = (
        np.random.default_rng(0).integers(0, case.config.vocab_size, 1_000_000).astype(np.uint16)
    )
    compiled = contender.endswith("-compiled")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if contender.startswith("nanogpt"):
        from benchmarks._nanogpt import NanoGPTStep

        return NanoGPTStep(case.config, tokens, case.batch_size, case.accum, device, compiled)
    return _our_step(case, tokens, device, compiled)


def _our_step(case: Case, tokens: np.ndarray, device: str, compiled: bool) -> Any:
    from devopsgpt_model.batches import ShuffledWindows
    from devopsgpt_model.device import choose_autocast
    from devopsgpt_model.gpt import GPT
    from devopsgpt_model.train import keep_freed_memory
    from devopsgpt_model.training.ranks import Ranks
    from devopsgpt_model.training.step import TrainingStep

    config = TrainingConfig(
        block_size=case.config.block_size,
        batch_size=case.batch_size,
        grad_accum_steps=case.accum,
        dropout=0.0,
        compile="on" if compiled else "off",
    )
    where = torch.device(device)
    if device == "cpu":
        keep_freed_memory()  # as the trainer does
    with where:
        model = GPT(case.config).init_weights(1)
    step = TrainingStep(model, config, where, choose_autocast("auto", where), Ranks())
    step.at_once = 1  # the same shapes as the peer's
    data = ShuffledWindows(tokens, config.block_size, config.batch_size, seed=1)
    numbers = iter(range(1_000_000))
    return lambda: step(next(numbers), data)


def serve(contender: str, case: Case) -> None:
    """The contender's process: a turn of steps for each line on stdin, its seconds and memory to
    stdout."""
    began = time.monotonic()
    step = make_step(contender, case)
    first = float(step())
    torch.cuda.empty_cache()  # the contenders share one GPU
    print(json.dumps({"start_seconds": time.monotonic() - began, "loss": first}), flush=True)
    for _ in sys.stdin:
        if torch.cuda.is_available():
            float(step())  # takes the memory back
        started = time.monotonic()
        for _ in range(case.steps):
            loss = step()
        float(loss)  # waits for a GPU
        seconds = (time.monotonic() - started) / case.steps
        torch.cuda.empty_cache()
        print(json.dumps({"step_seconds": seconds, "bytes": _peak_bytes()}), flush=True)


def _peak_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matrix_rate(case: Case) -> float:
    """FLOP/s of matrix products in the number format of our steps, the best of four turns.

    On a CPU of the case's own largest shapes. On a GPU of 8192 x 8192 x 8192, ten at a time: more
    than it keeps up once it is warm.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows, inner, columns = (
        case.batch_size * case.config.block_size,
        case.config.n_embd,
        4 * case.config.n_embd,
    )
    if device == "cuda":
        rows = inner = columns = 8192
    dtype = matrix_format(device)
    a = torch.randn(rows, inner, device=device, dtype=dtype)
    b = torch.randn(inner, columns, device=device, dtype=dtype)
    turns, best = 10 if device == "cuda" else 50, 0.0
    for _ in range(4):
        started = time.monotonic()
        for _ in range(turns):
            c = a @ b
        float(c[0, 0])
        best = max(best, 2 * rows * inner * columns * turns / (time.monotonic() - started))
    return best


def matrix_format(device: str) -> torch.dtype:
    """What our steps multiply in."""
    from devopsgpt_model.device import choose_autocast

    return choose_autocast("auto", torch.device(device)) or torch.float32


def flops_per_token(config: GPTConfig) -> float:
    """Forward and backward. source: PaLM, appendix B: 6 N + 12 L C T; N without the positions'
    table"""
    width = config.n_embd
    parameters = config.padded_vocab_size * width + config.n_layer * 12 * width**2
    return 6 * parameters + 12 * config.n_layer * width * config.block_size


def measure(name: str, case: Case, contenders: list[str], turns: int) -> list[dict[str, Any]]:
    """Alternate the contenders for a number of turns. returns: a row of medians for each"""
    command = [sys.executable, "-m", "benchmarks.training", "--case", name, "--contender"]
    processes, starts = {}, {}
    for contender in contenders:
        process = subprocess.Popen(
            [*command, contender], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if (start := _said(process, name, contender)) is not None:
            processes[contender], starts[contender] = process, start
    answers: dict[str, list[dict[str, float]]] = {contender: [] for contender in contenders}
    for _ in range(turns):
        for contender, process in list(processes.items()):
            process.stdin.write("turn\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            if (answer := _said(process, name, contender)) is not None:
                answers[contender].append(answer)
            else:
                del processes[contender]
    for process in processes.values():
        process.communicate(timeout=60)
    rate, tokens = matrix_rate(case), case.accum * case.batch_size * case.config.block_size
    rows = []
    for contender in processes:
        speed = tokens / float(np.median([answer["step_seconds"] for answer in answers[contender]]))
        rows.append(
            {
                "contender": contender,
                "tokens_per_second": speed,
                "peak_gb": answers[contender][-1]["bytes"] / 1e9,
                "mfu": speed * flops_per_token(case.config) / rate,
                "start_seconds": starts[contender]["start_seconds"],
            }
        )
    format = matrix_format("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{name}: {tokens} tokens/step, {str(format).removeprefix('torch.')} matrix rate "
        f"{rate / 1e12:.3f} TFLOP/s"
    )
    return rows


def _said(process: subprocess.Popen[str], name: str, contender: str) -> dict[str, float] | None:
    """A contender's answer; None, told, from one that ended: out of memory, most likely. The others
    go on."""
    line = process.stdout.readline()  # type: ignore[union-attr]
    print(
        f"{name} {contender}: {line.strip() or 'it ended, its error stands above'}",
        file=sys.stderr,
        flush=True,
    )
    answer: dict[str, float] | None = json.loads(line) if line else None
    return answer


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table; ratios are to the first row."""
    if not rows:
        return
    base = rows[0]
    print(
        f"{'':18}{'tokens/s':>9}{'ratio':>7}{'MFU':>7}{'peak GB':>9}{'ratio':>7}"
        f"{'first step s':>14}"
    )
    for row in rows:
        print(
            f"{row['contender']:18}{row['tokens_per_second']:9.0f}"
            f"{row['tokens_per_second'] / base['tokens_per_second']:7.2f}{row['mfu']:7.0%}"
            f"{row['peak_gb']:9.2f}{row['peak_gb'] / base['peak_gb']:7.2f}"
            f"{row['start_seconds']:14.1f}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Every case of this machine, or one."""
    known = every_case()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=known, help="default: all of them")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments if arguments is not None else sys.argv[1:])
    if options.contender:
        serve(options.contender, known[options.case])
        return
    for name in [options.case] if options.case else cases():
        show(measure(name, known[name], options.only, options.turns))


if __name__ == "__main__":
    main()
