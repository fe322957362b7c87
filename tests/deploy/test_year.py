"""A year of rescrapes, retention after each, by a clock that is moved: the home stops growing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.clock import Clock
from conftest import REPOSITORY

from devopsgpt_pipeline import processes
from devopsgpt_pipeline.home import Home

RESCRAPES, TRAIN_EVERY, KEEP = 16, 4, 2
RUN_DAYS = 90  # retention's own


@pytest.mark.slow
@pytest.mark.timeout(570)
def test_a_year_of_rescrapes_fits_in_what_a_quarter_took(tmp_path):
    home, clock = Home(tmp_path / "home").prepare(), Clock(tmp_path)
    server = processes.mlflow_server(home, processes.free_port())
    environment = os.environ | clock.environment | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    program = Path(__file__).with_name("year_program.py")
    with processes.running([server]):
        command = [sys.executable, program, home.path, server.url, *map(str, (RESCRAPES, TRAIN_EVERY, KEEP))]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, (answer.stdout + answer.stderr)[-3000:]
    rows = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    for row in rows:
        print(row)
    assert rows[-1]["day"] == 365
    assert max(row["versions"] for row in rows) <= KEEP + 2  # and those that an alias names
    quarter = [row for row in rows if row["day"] <= RUN_DAYS]
    later = [row for row in rows if row["day"] > RUN_DAYS]
    assert max(row["runs"] for row in later) <= max(row["runs"] for row in quarter) + 2 * TRAIN_EVERY
    assert rows[-1]["home"] < 1.25 * max(row["home"] for row in quarter)
