"""`python -m benchmarks.gpu [--out DIR] [--only PART ...]`: what waits for a GPU, within nine
minutes.

Needs torch for CUDA, triton, numpy, tiktoken and safetensors, no network; with pytest it runs
tests/gpu, too. The most telling parts come first. Each is a process of its own with a limit, and
one that fails does not keep the others from running; what it said before its end is kept.
Leaves gpu.json and gpu.md. On a CPU it runs the smallest sizes: to see that all of it works.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.training import SMALLEST

SECONDS = 530.0  # for all parts; the rest of nine minutes is for starting and ending
LEAST_S = 15.0  # a part with less left is not begun
SHOWN = 400  # characters of what a failed part said last

Row = dict[str, str | float]


@dataclass(frozen=True)
class Part:
    """A command that prints a row of JSON for each thing measured: `what`, `value`, `unit`."""

    name: str
    limit_s: float
    command: list[str]


@dataclass
class Outcome:
    """What a part said, and how it ended: `done`, `failed`, `out of time` or `left out`."""

    name: str
    status: str
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    problem: str = ""


def parts() -> list[Part]:
    """Every part for this machine, the most telling first."""
    measure = [sys.executable, "-m", "benchmarks.gpu.measure"]
    tests = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "gpu", "tests/gpu"]
    # settings of plugins that are not there are told of
    tests += ["-p", "no:cacheprovider", "-W", "ignore::pytest.PytestConfigWarning"]
    first = [
        Part("machine", 40, [*measure, "machine"]),
        Part("tests", 150, tests),
        Part("decoding", 80, [*measure, "decoding"]),
        # a CPU's compiler takes longer than all of a GPU's
        Part("kernels", 80 if torch.cuda.is_available() else 160, [*measure, "kernels"]),
        Part("finetuning", 80, [*measure, "finetuning"]),
    ]
    sizes = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    cases = sizes if torch.cuda.is_available() else [SMALLEST]
    return first + [Part(f"training {case}", 120, [*measure, "training", case]) for case in cases]


def run(part: Part, limit_s: float) -> Outcome:
    """Run a part to its end or its limit."""
    began = time.monotonic()
    process = subprocess.Popen(
        part.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        output, errors = process.communicate(timeout=limit_s)
        status = "done" if process.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own children, too: the group is its own
        output, errors = process.communicate()
        status = "out of time"
    seconds = round(time.monotonic() - began, 1)
    # pytest tells its failures on stdout
    problem = "" if status == "done" else (errors.strip() or output.strip())[-SHOWN:]
    rows = rows_in(output)
    if not rows and output.strip():  # pytest's last line counts what passed
        rows = [{"what": output.strip().splitlines()[-1], "value": "", "unit": ""}]
    return Outcome(part.name, status, seconds, rows, problem)


def rows_in(output: str) -> list[Row]:
    """The rows that a part printed; a line cut short by its end is none."""
    rows: list[Row] = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def run_all(chosen: list[Part], seconds: float) -> list[Outcome]:
    """Run the parts one after the other, each within its limit and what is left."""
    began, outcomes = time.monotonic(), list[Outcome]()
    for part in chosen:
        left = seconds - (time.monotonic() - began)
        if part.name == "tests" and importlib.util.find_spec("pytest") is None:
            outcome = Outcome(part.name, "left out", problem="pytest is not installed")
        elif left < LEAST_S:
            outcome = Outcome(part.name, "left out", problem="no time was left")
        else:
            print(f"== {part.name}", flush=True)
            outcome = run(part, min(part.limit_s, left))
        outcomes.append(outcome)
        print(f"== {part.name}: {outcome.status}, {outcome.seconds} s", flush=True)
    return outcomes


def as_table(outcomes: list[Outcome], seconds: float) -> str:
    """Markdown: a row for each thing measured, and one for each part that did not end well."""
    lines = ["| part | what | value | |", "|---|---|---|---|"]
    for each in outcomes:
        for row in each.rows:
            value = row["value"]
            shown = f"{value:,.4g}" if isinstance(value, float) and value < 1e4 else f"{value}"
            lines.append(f"| {each.name} | {row['what']} | {shown} | {row['unit']} |")
        if each.status != "done":
            problem = " ".join(each.problem.split()).replace("|", "/")
            lines.append(f"| {each.name} | **{each.status}** {problem} | | |")
    lines.append(f"\n{seconds:.0f} s in all.")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the parts and leave both tables. returns: how many parts failed"""
    known = parts()
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), help="a folder")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in known])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    options = parser.parse_args()
    began = time.monotonic()
    chosen = [part for part in known if not options.only or part.name in options.only]
    outcomes = run_all(chosen, options.seconds)
    seconds = time.monotonic() - began
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"seconds": round(seconds, 1), "parts": [asdict(each) for each in outcomes]}
    (options.out / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    table = as_table(outcomes, seconds)
    (options.out / "gpu.md").write_text(table)
    print(table)
    return sum(each.status in ("failed", "out of time") for each in outcomes)


if __name__ == "__main__":
    sys.exit(main())
