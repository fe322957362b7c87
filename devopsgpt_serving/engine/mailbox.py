"""Carries reports from the engine's thread to the event loop, those of a step with one wake-up."""

import asyncio
from collections import deque

from devopsgpt_serving.engine.sequence import Report

Reports = asyncio.Queue[tuple[int, Report]]

# Reports of one step that go out at once. Waking the loop and each write to a stream cost system
# calls, time of processors that the engine needs: with more sequences, tokens of several steps go
# together.
SMALL_STEP = 8


class Mailbox:
    """Delivers the reports of a small step when it ends; those of larger ones every interval_s.

    Where the loop does not keep up with the steps, it takes several of them together by itself.
    """

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._letters: deque[tuple[Reports, int, Report]] = deque()
        self._posted = 0  # in this step
        self._urgent = False
        self._waking, self._waking_soon = False, False
        self._last = 0.0

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop from now on."""
        self._loop = loop

    def post(self, reports: Reports, index: int, report: Report, at_once: bool) -> None:
        """Put a report into its request's queue soon after this step; called from the engine's
        thread.

        at_once: whether it must not wait for others, as an answer's first and last
        """
        self._letters.append((reports, index, report))
        self._posted += 1
        self._urgent |= at_once

    def end_step(self) -> None:
        """The engine has done a step: wake the loop where something is to be delivered."""
        at_once = self._urgent or self._posted <= SMALL_STEP
        posted, self._posted, self._urgent = self._posted, 0, False
        if not posted or self._loop is None or self._loop.is_closed():
            return
        if self._waking_soon or (self._waking and not at_once):
            return
        self._waking, self._waking_soon = True, at_once
        self._loop.call_soon_threadsafe(
            self._deliver if at_once else self._deliver_in_time, self._loop
        )

    def _deliver_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        wait = self._last + self.interval_s - loop.time()
        if wait > 0:
            loop.call_later(wait, self._deliver, loop)
        else:
            self._deliver(loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        # first, so that what is posted from here on wakes the loop again
        self._waking, self._waking_soon = False, False
        self._last = loop.time()
        while self._letters:
            reports, index, report = self._letters.popleft()
            reports.put_nowait((index, report))
