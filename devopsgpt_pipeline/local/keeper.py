"""Ends the servers of a process that was killed: `kill -9` leaves nobody else to do it.

Runs as a process of its own, on the standard library alone. Its standard input is a pipe from the
process that started the servers: a line for each process group, then `done`. A pipe that closes
without `done` means that its writer was killed.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

GRACE_S = 10.0


class Keeper:
    """The other end: told of each group as it starts."""

    def __init__(self, lock: int | None = None) -> None:
        """lock: descriptor of a file whose lock it holds, too, until it ends"""
        # a session of its own, so that a Ctrl-C in the terminal does not end it before the servers
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )

    def watch(self, group: int) -> None:
        """End this process group when we die."""
        self._say(f"{group}\n")

    def dismiss(self) -> None:
        """The servers were stopped in order: nothing is left to do."""
        self._say("done\n")
        self._process.communicate()

    def _say(self, line: str) -> None:
        if self._process.stdin is not None:
            # somebody ended the keeper: we end the servers ourselves
            with suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()


def main() -> None:
    """Wait for the end of the pipe, then end every group: asked first, killed after a while."""
    groups = []
    for line in sys.stdin:
        if line == "done\n":
            return
        groups.append(int(line))
    _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while time.monotonic() < deadline and _signal(groups, 0):
        time.sleep(0.1)
    _signal(groups, signal.SIGKILL)


def _signal(groups: list[int], number: int) -> bool:
    """Signal each group. returns: whether any is still there"""
    found = False
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)
            found = True
    return found


if __name__ == "__main__":
    main()
