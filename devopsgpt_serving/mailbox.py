"""Reports on their way from the engine's thread to the event loop: many of them for one wake-up of the loop."""

import asyncio
from collections import deque

from devopsgpt_serving.sequence import Report

Reports = asyncio.Queue[tuple[int, Report]]


class Mailbox:
    """Waking the loop costs a system call: one a step of the engine, not one a token of each sequence."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._letters: deque[tuple[Reports, int, Report]] = deque()
        self._waking = False

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop from now on."""
        self._loop = loop

    def post(self, reports: Reports, index: int, report: Report) -> None:
        """Put a report into its request's queue soon; called from the engine's thread."""
        self._letters.append((reports, index, report))
        if not self._waking and self._loop is not None and not self._loop.is_closed():
            self._waking = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False  # first, so that what is posted from here on wakes the loop again
        while self._letters:
            reports, index, report = self._letters.popleft()
            reports.put_nowait((index, report))
