"""One request at a time to a host, and a pause between two, over all processes that share a folder.

Two books on one host are two partitions and so two processes: their requests take turns here.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

MAX_WAIT_FOR_TURN_S = 600.0


class HostBusy(RuntimeError):
    """Another process holds a host for longer than any request takes."""


class Pace:
    """Whose turn it is at each host. folder: shared by the processes that must take turns; None for
    this one only."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._ended: dict[str, float] = {}  # host -> when its last request ended, s since the epoch

    @contextmanager
    def turn(self, host: str, delay_s: float) -> Iterator[None]:
        """Wait until delay_s after the last request to host has ended, and hold the host meanwhile.

        raises: HostBusy after 600 s
        """
        if self.folder is None:
            self._wait(self._ended.get(host), delay_s)
            try:
                yield
            finally:
                self._ended[host] = time.time()
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = self.folder / re.sub(r"[^A-Za-z0-9.-]", "_", host)
        lock = FileLock(stamp.with_name(stamp.name + ".lock"), timeout=MAX_WAIT_FOR_TURN_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise HostBusy(
                f"{host} is held by another process for over {MAX_WAIT_FOR_TURN_S:.0f} s; end it"
            ) from error
        try:
            self._wait(stamp.stat().st_mtime if stamp.exists() else None, delay_s)
            yield
        finally:
            stamp.touch()
            os.utime(stamp, ns=(time.time_ns(),) * 2)  # the kernel's own stamps are up to 4 ms old
            lock.release()

    @staticmethod
    def _wait(ended: float | None, delay_s: float) -> None:
        if ended is not None:
            # a clock that was set back must not make us wait for more than one delay
            time.sleep(min(delay_s, max(0.0, ended + delay_s - time.time())))
