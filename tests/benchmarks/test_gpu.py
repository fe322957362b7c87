"""The command for a day with a GPU: it ends in time, and a part that fails stops no other."""

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY

from benchmarks.gpu.__main__ import LEAST_S, Part, as_table, run, run_all

ROW = '{"what": "a step", "value": 1.5, "unit": "ms"}'
CUT = '{"what": "another st'
HANGS = f"""
import subprocess, sys, time
print('{ROW}', flush=True)
print('{CUT}', end='', flush=True)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])
print(child.pid, file=sys.stderr, flush=True)
time.sleep(300)
"""
BARE = """
import runpy, sys
for name in ("pytest", "dagster", "mlflow", "fastapi", "pydantic", "devopsgpt_pipeline"):
    sys.modules[name] = None  # an import of it fails
import benchmarks.finetuning, benchmarks.serving, benchmarks.gpu.measure
assert "{part}" in benchmarks.gpu.measure.PARTS
sys.argv = ["measure", "{part}"]
runpy.run_module("benchmarks.gpu.measure", run_name="__main__")
"""


def part(code, limit_s=60.0, name="a part"):
    return Part(name, limit_s, [sys.executable, "-c", code])


def test_a_part_that_fails_keeps_its_rows_and_stops_no_other():
    fails = part(f"print('{ROW}'); raise ValueError('no such kernel | here')", name="fails")
    outcomes = run_all([fails, part(f"print('{ROW}')", name="works")], 100)
    assert [each.status for each in outcomes] == ["failed", "done"]
    assert [each.rows for each in outcomes] == [[json.loads(ROW)]] * 2
    assert "no such kernel" in outcomes[0].problem
    table = as_table(outcomes, 3.0)
    assert "| works | a step | 1.5 | ms |" in table
    assert "| fails | **failed**" in table
    assert all(line.count("|") == 5 for line in table.splitlines() if line.startswith("|"))


def test_a_part_that_hangs_ends_with_its_children_and_keeps_whole_rows():
    outcome = run(part(HANGS), 5.0)
    assert outcome.status == "out of time"
    assert outcome.rows in ([], [json.loads(ROW)])  # a slow machine may not have come so far
    child = next((line for line in outcome.problem.split() if line.isdigit()), None)
    deadline = time.monotonic() + 20
    while child and _runs(int(child)):
        assert time.monotonic() < deadline, "the part's child lives on"
        time.sleep(0.05)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_has_no_time_left_is_not_begun():
    outcomes = run_all([part("raise SystemExit(1)")], LEAST_S - 1)
    assert [(each.status, each.problem) for each in outcomes] == [("left out", "no time was left")]
    assert "| a part | **left out** no time was left | | |" in as_table(outcomes, 0.0)


@pytest.mark.parametrize("name", ["machine", pytest.param("decoding", marks=pytest.mark.slow)])
def test_a_bare_machine_is_enough(name):
    """Without the web's and the pipeline's packages, and without pytest."""
    answer = subprocess.run(
        [sys.executable, "-c", BARE.format(part=name)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {"what", "value", "unit"} == set(rows[0])
    assert len(rows) >= 4
