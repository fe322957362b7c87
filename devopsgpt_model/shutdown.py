"""Being told to stop: by a signal, by the death of whoever launched us, by the silence of a
launcher far away."""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

STOPPED = 75  # exit status of a run that was told to stop and can be resumed (EX_TEMPFAIL)


class Stopped(Exception):
    """The run was told to stop. Once it has saved its state, it says where it stands."""


class StopRequest:
    """Whether this process was told to stop. Looked at by whoever works; set from anywhere, never
    taken back."""

    def __init__(self, patience_s: float | None = None) -> None:
        """patience_s: how long this process may go on once nobody waits for it; None for as long as
        it likes"""
        self.made = False
        self._patience_s = patience_s

    def on_signals(self) -> None:
        """Take SIGINT and SIGTERM as a request."""

        def request(signal_number: int, frame: FrameType | None) -> None:
            self.made = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, request)

    def without(self, pid: int) -> None:
        """Watch a process: a killed launcher must not leave a trainer behind. pid: 0 for none"""

        def watch() -> None:
            while process_is_alive(pid):
                time.sleep(1.0)
            self._abandoned()

        if pid:
            threading.Thread(target=watch, daemon=True, name="parent-watch").start()

    def without_heartbeat(self, path: Path, patience_s: float) -> None:
        """Watch a launcher on another machine, by our own clock: only that the file's time changes
        counts.

        patience_s: seconds without a change; 0 to watch nothing
        """

        def watch() -> None:
            seen, since = -1, time.monotonic()
            while time.monotonic() - since < patience_s:
                touched = path.stat().st_mtime_ns if path.exists() else -1
                if touched != seen:
                    seen, since = touched, time.monotonic()
                time.sleep(min(1.0, patience_s / 4))
            self._abandoned()

        if patience_s:
            threading.Thread(target=watch, daemon=True, name="heartbeat-watch").start()

    def _abandoned(self) -> None:
        """Ask for an end, and end the process where it hangs: in a collective, or on a file system
        that is gone."""
        self.made = True
        if self._patience_s is not None:
            time.sleep(self._patience_s)
            os._exit(STOPPED)


NEVER = StopRequest()  # of work that nobody stops


def process_is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; a dead one that nobody reaped does not."""
    if os.getppid() == pid:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _defunct(pid)


def _defunct(pid: int) -> bool:
    """Whether a process is dead and only its entry is left, which in a container may stay for ever.
    Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return False
