"""What compiling a training step costs and saves: the numbers in
devopsgpt_model/training/compile_policy.py.

`python -m benchmarks.compiling`: for each case of benchmarks.training the seconds to the end of the
first step, eager, compiled with an empty cache and compiled with the cache that this left, and the
seconds of the steps after it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.training import Case, cases
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.training.compile_policy import CACHE_VARIABLE

TURNS = 3


def run(name: str, contender: str, cache: str) -> tuple[float, float]:
    """A process of its own. returns: seconds to the end of its first step, and of a later one (the
    median)"""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training",
        "--case",
        name,
        "--contender",
        contender,
    ]
    environment = os.environ | {CACHE_VARIABLE: cache}
    answer = subprocess.run(
        command,
        input="turn\n" * TURNS,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    first, *turns = map(json.loads, answer.stdout.splitlines())
    return first["start_seconds"], statistics.median(turn["step_seconds"] for turn in turns)


def parameters(config: GPTConfig) -> int:
    """Matrices only, as compile_policy needs them to the second digit."""
    return config.vocab_size * config.n_embd + config.n_layer * 12 * config.n_embd**2


def measure(name: str, case: Case) -> None:
    """Print one case."""
    with tempfile.TemporaryDirectory() as cache:
        eager_start, eager = run(name, "ours", cache)
        cold, compiled = run(name, "ours-compiled", cache)
        warm, _ = run(name, "ours-compiled", cache)
    tokens = case.accum * case.batch_size * case.config.block_size
    flops = 6 * parameters(case.config) * tokens / eager
    print(
        f"{name}: first step after {eager_start:.1f} s eager, {cold:.1f} s compiled, {warm:.1f} s "
        "from the cache; "
        f"a step {eager:.3f} s eager ({flops / 1e9:.0f} GFLOP/s), {compiled:.3f} s compiled: "
        f"{1 - compiled / eager:.0%} saved; a cold compilation: {cold - eager_start:.1f} s",
        flush=True,
    )


def main() -> None:
    """Every case of this machine."""
    for name, case in cases().items():
        measure(name, case)


if __name__ == "__main__":
    main()
