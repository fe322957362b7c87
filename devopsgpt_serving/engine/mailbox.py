"""Carries reports from the engine's thread to the event loop, many with one wake-up."""

import asyncio
from collections import deque

from devopsgpt_serving.engine.sequence import Report

Reports = asyncio.Queue[tuple[int, Report]]


class Mailbox:
    """Delivers what can wait at most once in interval_s, the tokens of several steps together.

    Waking the loop costs a system call, and so does each write to a stream: time of processors that
    the engine needs.
    """

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._letters: deque[tuple[Reports, int, Report]] = deque()
        self._waking = False
        self._last = 0.0

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop from now on."""
        self._loop = loop

    def post(self, reports: Reports, index: int, report: Report, at_once: bool) -> None:
        """Put a report into its request's queue soon; called from the engine's thread."""
        self._letters.append((reports, index, report))
        if self._loop is None or self._loop.is_closed() or (self._waking and not at_once):
            return
        self._waking = True
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
        self._waking = False  # first, so that what is posted from here on wakes the loop again
        self._last = loop.time()
        while self._letters:
            reports, index, report = self._letters.popleft()
            reports.put_nowait((index, report))
