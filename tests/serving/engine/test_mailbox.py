"""Reports from a thread to the event loop: in order, in time, and together where they can wait."""

import asyncio
import itertools
import threading
import time

import pytest

from devopsgpt_serving.engine.mailbox import SMALL_STEP, Mailbox
from devopsgpt_serving.engine.sequence import Finished, NewText

FIRST, LAST = (NewText("first"), True), (Finished("stop"), True)


def deliver(interval_s, steps):
    """Run steps of (seconds to wait before, [(report, at_once)]) in a thread. returns: (seconds,
    report) as they came"""

    async def receive():
        mailbox, reports = Mailbox(interval_s), asyncio.Queue()
        mailbox.open(asyncio.get_running_loop())
        began = time.monotonic()

        def work():
            for pause, posted in steps:
                time.sleep(pause)
                for report, at_once in posted:
                    mailbox.post(reports, 0, report, at_once)
                mailbox.end_step()

        threading.Thread(target=work).start()
        came = []
        for _ in range(sum(len(posted) for _, posted in steps)):
            _, report = await asyncio.wait_for(reports.get(), 5)
            came.append((time.monotonic() - began, report))
        return came

    return asyncio.run(receive())


def step(pause, tokens, begin=0):
    """A step in which so many sequences get a token."""
    return pause, [(NewText(str(number)), False) for number in range(begin, begin + tokens)]


LARGE = SMALL_STEP + 1


def test_everything_comes_in_order():
    steps = [step(0.002, tokens) for tokens in (1, 3, LARGE, 30, 2, LARGE)]
    came = deliver(0.03, [(0, [FIRST]), *steps, (0, [LAST])])
    assert [report for _, report in came] == [
        report for _, posted in [(0, [FIRST]), *steps, (0, [LAST])] for report, _ in posted
    ]


def test_tokens_of_a_small_step_come_at_once():
    came = deliver(5.0, [step(0.1, SMALL_STEP) for _ in range(4)])
    moments = [moment for moment, _ in came][::SMALL_STEP]
    assert all(0.05 < later - earlier < 0.2 for earlier, later in itertools.pairwise(moments))


def test_tokens_of_large_steps_come_in_few_deliveries_and_what_cannot_wait_at_once():
    large = [step(0.01, LARGE) for _ in range(10)]
    came = deliver(0.2, [(0, [FIRST]), *large, step(0.3, LARGE)])
    moments = [moment for moment, _ in came]
    assert moments[0] < 0.1
    assert moments[10 * LARGE] - moments[1] < 0.05  # ten steps of 0.1 s came together
    assert moments[1] >= 0.19
    ended = deliver(5.0, [(0, [FIRST]), *large[:3], (0, [LAST])])
    assert ended[-1][0] < 1.0  # the end takes along what was held


def test_what_nothing_follows_does_not_stay_behind():
    came = deliver(0.1, [(0, [FIRST]), step(0.01, LARGE)])
    assert came[1][0] < 1.0


@pytest.mark.parametrize("interval", [0.0, 0.03])
def test_slow_tokens_are_not_held(interval):
    came = deliver(interval, [(0, [FIRST]), *[step(0.1, LARGE) for _ in range(3)]])
    moments = [moment for moment, _ in came][1::LARGE]
    assert all(0.05 < later - earlier < 0.2 for earlier, later in itertools.pairwise(moments))


def test_a_step_without_reports_wakes_nobody():
    came = deliver(0.0, [(0, [FIRST]), *[(0.001, [])] * 20, (0, [LAST])])
    assert len(came) == 2
