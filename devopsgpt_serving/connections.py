"""The open connections of one server: how many there may be, and which must go when there are too
many.

A connection is worth keeping while a request of its client is being answered. One that is idle, or
has sent half of a request, makes room for a new one: thousands of those must not lock others out.
"""

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

# beside connections: weights, the cache, MLflow's downloads, sockets to vLLM, the listener, the log
SPARE_DESCRIPTORS = 128
LOG_INTERVAL_S = 10.0


class Connection(Protocol):
    """What is admitted; it can be told to go."""

    def drop(self) -> None:
        """Close at once."""


class Connections:
    """Admits connections and counts those that were closed against their client's wish."""

    def __init__(self, most: int, on_closed: Callable[[str], None] = lambda reason: None) -> None:
        self.most = most
        self._on_closed = on_closed
        self._open: set[Connection] = set()
        self._unanswered: dict[Connection, None] = {}  # in the order of when their wait began
        self._untold = Counter[str]()
        self._told = float("-inf")

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, in place of the one that is idle for longest where it must be.

        returns: False where every open one is being answered
        """
        if len(self._open) >= self.most:
            if not self._unanswered:
                self.count("refused")
                return False
            oldest = next(iter(self._unanswered))
            self.forget(oldest)
            self.count("made room")
            oldest.drop()
        self._open.add(connection)
        return True

    def mark(self, connection: Connection, *, answered: bool) -> None:
        """answered: whether a request of this client is being answered, so that it must stay"""
        if answered:
            self._unanswered.pop(connection, None)
        elif connection in self._open:
            self._unanswered.setdefault(connection)

    def forget(self, connection: Connection) -> None:
        """It is closed, or will be at once."""
        self._open.discard(connection)
        self._unanswered.pop(connection, None)

    def count(self, reason: str) -> None:
        """A connection was closed by us. Logged with all others since, every LOG_INTERVAL_S."""
        self._on_closed(reason)
        self._untold[reason] += 1
        now = time.monotonic()
        if now - self._told >= LOG_INTERVAL_S:
            facts = {"reasons": dict(self._untold), "open": len(self._open), "most": self.most}
            log.warning("connections were closed early", extra=facts)
            self._untold.clear()
            self._told = now


def affordable_connections(wanted: int) -> int:
    """As many connections as this process may have file descriptors for, up to `wanted`.

    Raises the process's own limit as far as the system allows. raises: ValueError where not even
    one connection fits
    """
    needed = wanted + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    if soft <= SPARE_DESCRIPTORS:
        raise ValueError(
            f"the limit on file descriptors must be above {SPARE_DESCRIPTORS}, got {soft}; raise "
            "it with `ulimit -n`"
        )
    affordable = soft - SPARE_DESCRIPTORS
    log.warning(
        "fewer connections than wanted: the limit on file descriptors is too low",
        extra={"wanted": wanted, "connections": affordable, "descriptors": soft},
    )
    return affordable
