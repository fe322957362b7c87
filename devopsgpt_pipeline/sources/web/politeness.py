"""What a site asks of its visitors: robots.txt, one request at a time, and a pause between two.

The pause holds for all processes that share a folder: two books on one host are two partitions, and
so two processes, whose requests take turns here.
"""

import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from protego import Protego

MAX_WAIT_FOR_TURN_S = 600.0
MAX_RULES_OF_AGENTS = 1_000_000
"""Lines of a robots.txt times its lines about agents. Each agent of a group gets each rule of it:
5,000 of both, 170 kB, took 42 s."""


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


class RobotsRules:
    """A parsed robots.txt, as it applies to one user agent. No bytes: no rules.

    raises: ValueError for one with more rules for more agents than can be read
    """

    def __init__(self, body: bytes, agent: str) -> None:
        text = body.decode("utf-8", errors="replace").removeprefix("\ufeff")
        lines = text.splitlines()
        agents = sum(line.lstrip().lower().startswith("user") for line in lines)
        if agents * len(lines) > MAX_RULES_OF_AGENTS:
            raise ValueError(
                f"lines times agents must be at most {MAX_RULES_OF_AGENTS:,}, got {len(lines):,} "
                f"times {agents:,}"
            )
        self._rules = Protego.parse(text)
        self._agent = agent

    def allows(self, url: str) -> bool:
        """Whether the address may be fetched."""
        return bool(self._rules.can_fetch(url, self._agent))

    @property
    def crawl_delay_s(self) -> float | None:
        """Seconds that the site asks between requests, or None. Request-rate counts as well, the
        slower wins."""
        asked = [self._rules.crawl_delay(self._agent)]
        rate = self._rules.request_rate(self._agent)
        if rate is not None and rate.requests:
            asked.append(_quotient(rate.seconds, rate.requests))
        return max((float(delay) for delay in asked if delay is not None), default=None)


def _quotient(seconds: int, requests: int) -> float:
    try:
        return seconds / requests
    except OverflowError:
        return math.inf
