"""Reports from a thread to the event loop: in order, in time, and together where they can wait."""

import asyncio
import itertools
import threading
import time

import pytest

from devopsgpt_serving.engine.mailbox import Mailbox
from devopsgpt_serving.engine.sequence import Finished, NewText


def deliver(interval_s, script):
    """Run a script of (seconds to wait before, report, at_once) in a thread. returns: (seconds,
    report) as they came"""

    async def receive():
        mailbox, reports = Mailbox(interval_s), asyncio.Queue()
        mailbox.open(asyncio.get_running_loop())
        began = time.monotonic()

        def send():
            for pause, report, at_once in script:
                time.sleep(pause)
                mailbox.post(reports, 0, report, at_once)

        threading.Thread(target=send).start()
        came = []
        for _ in script:
            _, report = await asyncio.wait_for(reports.get(), 5)
            came.append((time.monotonic() - began, report))
        return came

    return asyncio.run(receive())


def tokens(count, pause=0.01):
    return [(pause, NewText(str(number)), False) for number in range(count)]


def test_everything_comes_in_order():
    came = deliver(
        0.03, [(0, NewText("first"), True), *tokens(30, 0.002), (0, Finished("stop"), True)]
    )
    assert [report for _, report in came] == [
        NewText("first"),
        *map(NewText, map(str, range(30))),
        Finished("stop"),
    ]


def test_what_can_wait_comes_in_few_deliveries_and_what_cannot_at_once():
    came = deliver(0.2, [(0, NewText("first"), True), *tokens(10), (0.3, NewText("late"), False)])
    moments = [moment for moment, _ in came]
    assert moments[0] < 0.1
    assert moments[10] - moments[1] < 0.05  # ten tokens of 0.1 s came together
    assert moments[1] >= 0.19
    ended = deliver(5.0, [(0, NewText("first"), True), *tokens(3), (0, Finished("length"), True)])
    assert ended[-1][0] < 1.0  # the end takes along what was held


def test_what_nothing_follows_does_not_stay_behind():
    came = deliver(0.1, [(0, NewText("first"), True), (0.01, NewText("last"), False)])
    assert came[1][0] < 1.0


@pytest.mark.parametrize("interval", [0.0, 0.03])
def test_slow_tokens_are_not_held(interval):
    came = deliver(interval, [(0, NewText("first"), True), *tokens(3, 0.1)])
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(came)]
    assert all(0.05 < gap < 0.2 for gap in gaps)
