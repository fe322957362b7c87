"""One thread owns the models: it takes sequences in, steps the schedulers, and forgets models that
are done.

Callers hand in sequences from any thread and never wait for a computation. A sequence belongs to
the model that its prompt was encoded for, so an answer comes from one version, whatever is
installed meanwhile.
"""

import logging
import threading
from collections.abc import Callable, Iterable

from devopsgpt_model.device import is_lost
from devopsgpt_serving.engine.loaded_model import LoadedModel, Observers, Scheduler
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.errors import EngineFailure, QueueFull, Stopping

log = logging.getLogger(__name__)

# A step is over in less, and what hangs must not keep the process past the 30 s that Kubernetes and
# Compose give it: 5 s of not being ready + 15 s of drain_s + this.
STOP_WAIT_S = 5.0

THREAD_ENDED = "the engine's thread ended"


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
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """max_running: slots of each model; max_queue: sequences that may wait beside those;
        on_step: told when the reports of a step are complete"""
        self.capacity = max_running + max_queue
        self.prefill_chunk = prefill_chunk
        self._on_token, self._on_end, self._on_step = on_token, on_end, on_step
        self._current: Scheduler | None = None
        self._schedulers: list[Scheduler] = []
        self._inbox: list[tuple[Scheduler, Sequence]] = []
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
    def current(self) -> Scheduler | None:
        """The scheduler of the model that new prompts go to."""
        return self._current

    @property
    def running(self) -> int:
        return sum(scheduler.running for scheduler in list(self._schedulers))

    @property
    def waiting(self) -> int:
        return max(0, self._inside - self.running)

    def install(self, loaded: LoadedModel) -> None:
        """Make a model the one that new prompts go to; the old one finishes what it has."""
        with self._wake:
            observers = Observers(self._on_token, self._ended)
            self._current = loaded.scheduler(self.prefill_chunk, observers)
            self._schedulers.append(self._current)
            self._wake.notify()

    def submit(self, scheduler: Scheduler, sequences: Iterable[Sequence]) -> None:
        """Take sequences in, all or none. raises: QueueFull, Stopping"""
        sequences = list(sequences)
        with self._wake:
            if self._stopping:
                raise Stopping("the service is stopping" if self.alive else THREAD_ENDED)
            if self._inside + len(sequences) > self.capacity:
                raise QueueFull(
                    f"{self._inside} of {self.capacity} places are taken and {len(sequences)} are "
                    "asked for; try again after Retry-After seconds"
                )
            self._inside += len(sequences)
            self._inbox += [(scheduler, sequence) for sequence in sequences]
            self._wake.notify()

    def _work(self) -> None:
        try:
            while self._take_in() and self._step_all():
                self._let_go()
        # told to stop, without a device, or ended by what no step survives: nobody waits for an
        # answer that will not come
        finally:
            self._give_up_all()

    def _give_up_all(self) -> None:
        with self._wake:
            reason = Stopping("the service stopped" if self._stopping else THREAD_ENDED)
            self._stopping = True
            self._sort_in()
        for scheduler in self._schedulers:
            scheduler.fail_all(reason)
        self._on_step()

    # Functions of their own: a scheduler in a local variable of _work would keep a replaced model
    # in memory until the next request.

    def _step_all(self) -> bool:
        """returns: False where no model can be computed in this process any more"""
        return all(self._step(scheduler) for scheduler in self._schedulers if scheduler.sequences)

    def _let_go(self) -> None:
        """Forget the schedulers that are done and are not the one for new prompts."""
        with self._wake:
            busy = [scheduler for scheduler, _ in self._inbox]
            keep = (
                scheduler
                for scheduler in self._schedulers
                if scheduler.sequences or scheduler is self._current or scheduler in busy
            )
            self._schedulers = list(keep)

    def _take_in(self) -> bool:
        """Give newcomers to their schedulers; sleep while there is nothing to do.

        returns: False to stop
        """
        with self._wake:
            while not (
                self._stopping
                or self._inbox
                or any(scheduler.sequences for scheduler in self._schedulers)
            ):
                self._schedulers = [
                    scheduler for scheduler in self._schedulers if scheduler is self._current
                ]
                self._wake.wait()
            self._sort_in()
            return not self._stopping

    def _sort_in(self) -> None:
        for scheduler, sequence in self._inbox:
            scheduler.add(sequence)
            if scheduler not in self._schedulers:  # it was let go of between encoding and arrival
                self._schedulers.append(scheduler)
        self._inbox.clear()

    def _step(self, scheduler: Scheduler) -> bool:
        try:
            scheduler.step()
        # one model's failure must not end the thread that serves the others
        except Exception as error:
            ids = sorted({sequence.request_id for sequence in scheduler.sequences})
            told = {"version": scheduler.loaded.version.number, "request_ids": ids}
            log.exception("a model failed", extra=told)
            scheduler.fail_all(EngineFailure(f"the model failed: {error!r:.200}"))
            # every later call to the device would fail as well: a process that is unhealthy is
            # started again, one that answers 500 for ever is not
            return not is_lost(error)
        finally:
            self._on_step()
        return True

    def _ended(self, sequence: Sequence, reason: str) -> None:
        with self._wake:
            self._inside -= 1
        self._on_end(sequence, reason)
