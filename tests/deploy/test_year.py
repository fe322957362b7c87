"""Two years of rescrapes by a clock that is moved: with retention the second adds nothing, without
it each kind grows.

In the second year everything that is kept for a time, the longest of which is a year for earlier
pages, has been thrown away once. What MLflow notes of each training is kept for good, and has a
stated size instead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.clock import Clock
from conftest import REPOSITORY

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(570)]
PROGRAM = Path(__file__).with_name("year_program.py")
# versions, and those that champion, challenger and previous may name beside them
KEEP, NAMED = 2, 3
YEAR_DAYS = 365
# docs/operations.md has these: what is kept of each training for good, and all of this home beside
# versions and notes
NOTED_BYTES = 150_000  # MLflow's rows and charts
CHECKED_BYTES = 40_000  # Dagster's rows of asset checks, which it cannot delete
STATED_BYTES = 11_000_000
KINDS = ("runs", "versions", "work", "downloads", "pages", "logs")


def two_years(place, retention):
    """returns: what is kept after each rescrape"""
    home, clock = Home(place / "home").prepare(), Clock(place)
    server = servers.mlflow_server(home, servers.free_port())
    environment = (
        os.environ | clock.environment | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    )
    with servers.running([server]):
        command = [sys.executable, PROGRAM, home.path, server.url, str(KEEP), retention]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, (answer.stdout + answer.stderr)[-3000:]
    rows = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    for row in rows:
        print(row)
    assert rows[-1]["day"] == 2 * YEAR_DAYS
    assert rows[-1]["trainings"] == len(rows)
    return rows


def what_grows(rows):
    """Kinds of which the second year kept more than the first; of versions, more than their number
    allows."""
    first = [row for row in rows if row["day"] <= YEAR_DAYS]
    second = [row for row in rows if row["day"] > YEAR_DAYS]
    limits = {kind: 1.05 * max(row[kind] for row in first) for kind in KINDS}
    limits["runs"] = max(row["runs"] for row in first) + CHECKED_BYTES * len(second)
    limits["versions"] = 1.05 * (KEEP + NAMED) * rows[0]["versions"]  # rows[0] has one
    return [kind for kind in KINDS if max(row[kind] for row in second) > limits[kind]]


def test_a_second_year_adds_nothing_and_all_fits_in_the_stated_size(tmp_path):
    rows = two_years(tmp_path, "on")
    assert what_grows(rows) == []
    for row in rows:
        assert row["home"] - row["versions"] - row["notes"] < STATED_BYTES, row
        assert row["notes"] < rows[0]["notes"] + NOTED_BYTES * row["trainings"], row


def test_without_retention_each_kind_grows(tmp_path):
    assert what_grows(two_years(tmp_path, "off")) == list(KINDS)
