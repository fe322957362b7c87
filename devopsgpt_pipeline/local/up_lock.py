"""One `devopsgpt up` for each home: two would run each tick of a schedule twice.

The lock is on an open file, which the keeper of the servers inherits: where `up` is killed, the
home is free once its servers have ended, not before. The file says who holds it.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local.servers import Server


class HomeInUse(RuntimeError):
    """A home that another `devopsgpt up` serves."""


@contextmanager
def sole_up(home: Home, servers: Sequence[Server]) -> Iterator[int]:
    """Hold the home for these servers. yields: the lock's descriptor, for the keeper

    raises: HomeInUse, with where the other one is
    """
    with home.up_lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise HomeInUse(_where(home, file.read())) from None
        file.truncate(0)
        places = {server.name: server.url for server in servers}
        file.write(json.dumps({"pid": os.getpid(), "servers": places}) + "\n")
        file.flush()
        yield file.fileno()


def _where(home: Home, content: str) -> str:
    rule = f"one `devopsgpt up` may run over a home, and {home.path} has one"
    remedy = "stop that one with Ctrl-C, or set DEVOPSGPT_HOME to another home"
    try:
        holder = json.loads(content)
        places = ", ".join(f"{name} {url}" for name, url in holder["servers"].items())
        found = f"process {int(holder['pid'])}: {places}"
    except (ValueError, TypeError, KeyError, AttributeError):  # it is only just writing
        found = f"{home.up_lock} does not tell which"
    return f"{rule} ({found}); {remedy}"
