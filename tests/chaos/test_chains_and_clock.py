"""Two chains at once, and a clock that jumps. The promises are those of test_killed_chains.py."""

import os
import subprocess
import time

import pytest

from chaos.clock import Clock
from chaos.world import end

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]


def test_two_chains_at_once_give_one_result(undisturbed):
    first, second = undisturbed.chain(seed=50), undisturbed.chain(seed=50)
    try:
        statuses = sorted((first.wait(240), second.wait(240)))
    finally:
        end(first)
        end(second)
    assert statuses[0] == 0, "neither came to its end"
    undisturbed.complete(seed=50)


def test_a_clock_that_jumps(undisturbed, tmp_path):
    clock = Clock(tmp_path)
    moved = subprocess.run(
        ["date", "+%Y"], env=os.environ | clock.environment, capture_output=True, text=True
    )
    assert int(moved.stdout) == time.gmtime().tm_year
    chain = undisturbed.chain(seed=60, **clock.environment)
    try:
        for hours in (26, -30, 0):
            time.sleep(2.5)
            clock.move(hours * 3600)
        assert chain.wait(120) == 0, (undisturbed.place / "chain.log").read_text()[-3000:]
    finally:
        end(chain)
    undisturbed.complete(seed=60)
