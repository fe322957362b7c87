"""One thread owns the models: it takes sequences in, steps the lanes, and lets go of models that
are done.

Callers hand in sequences from any thread and never wait for arithmetic. A sequence belongs to the
model that its prompt was encoded for, so an answer is whole from one version whatever is installed
meanwhile.
"""

import logging
import threading
from collections.abc import Callable, Iterable

from devopsgpt_serving.engine.lane import Lane, LoadedModel, Observers
from devopsgpt_serving.engine.sequence import Sequence

log = logging.getLogger(__name__)

# A step is over in less, and what hangs must not keep the process past the 30 s that Kubernetes and
# Compose give it: 5 s of not being ready + 15 s of drain_s + this.
STOP_WAIT_S = 5.0

THREAD_ENDED = "the engine's thread ended"


class QueueFull(Exception):
    """More sequences than may wait."""


class Stopping(Exception):
    """An engine that takes nothing in any more."""


class EngineFailure(RuntimeError):
    """Arithmetic that went wrong; the sequences of that model were given up."""


class Engine:
    """Admission, and the thread that works."""

    def __init__(
        self,
        *,
        max_running: int,
        max_queue: int,
        prefill_chunk: int,
        on_token: Callable[[Sequence], None] = lambda sequence: None,
        on_end: Callable[[Sequence, str], None] = lambda sequence, reason: None,
        lane: Callable[[LoadedModel, int, Observers], Lane] = Lane,
    ) -> None:
        """max_running: rows of each model; max_queue: sequences that may wait beside those; lane:
        who computes"""
        self.capacity = max_running + max_queue
        self.prefill_chunk = prefill_chunk
        self._on_token, self._on_end, self._lane = on_token, on_end, lane
        self._current: Lane | None = None
        self._lanes: list[Lane] = []
        self._inbox: list[tuple[Lane, Sequence]] = []
        self._inside = 0
        self._stopping = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Let the thread work."""
        self._thread.start()

    def stop(self) -> None:
        """Give up what is under way and end the thread; one that hangs is left behind after
        STOP_WAIT_S."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(STOP_WAIT_S)
        if self._thread.is_alive():
            log.error(
                "the engine's thread hangs and is left behind", extra={"waited_s": STOP_WAIT_S}
            )

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def current(self) -> Lane | None:
        """The lane of the model that new prompts go to."""
        return self._current

    @property
    def running(self) -> int:
        return sum(lane.running for lane in list(self._lanes))

    @property
    def waiting(self) -> int:
        return max(0, self._inside - self.running)

    def install(self, loaded: LoadedModel) -> None:
        """Make a model the one that new prompts go to; the old one finishes what it has."""
        with self._wake:
            self._current = self._lane(
                loaded, self.prefill_chunk, Observers(self._on_token, self._ended)
            )
            self._lanes.append(self._current)
            self._wake.notify()

    def submit(self, lane: Lane, sequences: Iterable[Sequence]) -> None:
        """Take sequences in, all or none. raises: QueueFull, Stopping"""
        sequences = list(sequences)
        with self._wake:
            if self._stopping:
                raise Stopping("the service is stopping" if self.alive else THREAD_ENDED)
            if self._inside + len(sequences) > self.capacity:
                raise QueueFull(
                    f"{self._inside} of {self.capacity} places are taken and {len(sequences)} are "
                    "asked for; "
                    "try again after Retry-After seconds"
                )
            self._inside += len(sequences)
            self._inbox += [(lane, sequence) for sequence in sequences]
            self._wake.notify()

    def _work(self) -> None:
        try:
            while self._take_in():
                self._step_all()
                self._let_go()
        # told to stop, or ended by what no step survives: nobody waits for an answer that will not
        # come
        finally:
            self._give_up_all()

    def _give_up_all(self) -> None:
        with self._wake:
            reason = Stopping("the service stopped" if self._stopping else THREAD_ENDED)
            self._stopping = True
            self._sort_in()
        for lane in self._lanes:
            lane.fail_all(reason)

    # Two functions for their variables to end with: a lane named by one of _work's own would keep a
    # replaced model in memory for as long as nothing is asked.

    def _step_all(self) -> None:
        for lane in self._lanes:
            if not lane.idle:
                self._step(lane)

    def _let_go(self) -> None:
        """Forget the lanes that are done and are not the one for new prompts."""
        with self._wake:
            busy = [lane for lane, _ in self._inbox]
            keep = (
                lane
                for lane in self._lanes
                if not lane.idle or lane is self._current or lane in busy
            )
            self._lanes = list(keep)

    def _take_in(self) -> bool:
        """Sort newcomers into their lanes, sleeping while there is nothing to do. returns: False to
        stop"""
        with self._wake:
            while not (self._stopping or self._inbox or any(not lane.idle for lane in self._lanes)):
                self._lanes = [lane for lane in self._lanes if lane is self._current]
                self._wake.wait()
            self._sort_in()
            return not self._stopping

    def _sort_in(self) -> None:
        for lane, sequence in self._inbox:
            lane.waiting.append(sequence)
            if lane not in self._lanes:  # it was let go of between encoding and arrival
                self._lanes.append(lane)
        self._inbox.clear()

    def _step(self, lane: Lane) -> None:
        try:
            lane.step()
        # one model's failure must not end the thread that serves the others
        except Exception as error:
            told = {"version": lane.loaded.version.version, "request_ids": _request_ids(lane)}
            log.exception("a model failed", extra=told)
            lane.fail_all(EngineFailure(f"the model failed: {error!r:.200}"))

    def _ended(self, sequence: Sequence, reason: str) -> None:
        with self._wake:
            self._inside -= 1
        self._on_end(sequence, reason)


def _request_ids(lane: Lane) -> list[str]:
    """The requests that a lane has sequences of."""
    seated = [row.sequence for row in lane.rows if row.sequence is not None]
    return sorted({sequence.request_id for sequence in [*lane.waiting, *seated]})
