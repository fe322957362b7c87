"""The scheduler where a vLLM server computes: sends sequences out, hands out what comes back."""

import asyncio
import http.client
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.engine.detokenizer import Detokenizer
from devopsgpt_serving.engine.lifecycle import finish, give_up, take_token, to_drop
from devopsgpt_serving.engine.loaded_model import Observers
from devopsgpt_serving.engine.sampling import TokenScore
from devopsgpt_serving.engine.sequence import FinishReason, NewText, Scored, Sequence
from devopsgpt_serving.engine.vllm_client import Call, Events, RemoteModel, Watch, read_scores
from devopsgpt_serving.errors import Stopping, VllmUnavailable
from devopsgpt_serving.version import Version

WAIT_S = 0.005  # for the next token, before newcomers are looked for again


@dataclass(frozen=True, eq=False)
class VllmModel:
    """A model version that a vLLM server computes."""

    version: Version
    remote: RemoteModel
    tokenizer: Tokenizer

    @property
    def block_size(self) -> int:
        return self.remote.block_size

    def scheduler(self, prefill_chunk: int, observers: Observers) -> "VllmScheduler":
        """A scheduler for this model. prefill_chunk: not used, vLLM batches as it likes"""
        return VllmScheduler(self, observers)


class VllmScheduler:
    """A call to vLLM for each sequence, as many at a time as there are rows."""

    def __init__(self, loaded: VllmModel, observers: Observers) -> None:
        self.loaded = loaded
        self.remote = loaded.remote
        self.observers = observers
        self.waiting: deque[Sequence] = deque()
        self.calls: dict[Sequence, Call] = {}
        self.unscored: dict[Sequence, int] = {}
        """Tokens of each prompt whose scores are still to come."""
        self.events: Events = queue.SimpleQueue()
        self.watch = Watch(self.remote)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.waiting, *self.calls]

    @property
    def running(self) -> int:
        return len(self.calls)

    @property
    def kv_cache_usage(self) -> None:
        """vLLM's own /metrics tells it."""

    async def trouble(self) -> str | None:
        """Why vLLM does not serve the model; None where it does."""
        return await asyncio.to_thread(self.watch.problem)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its call."""
        self.waiting.append(sequence)

    def step(self) -> None:
        """Send who waits, then hand out what has come, waiting a moment for it."""
        for sequence, error in to_drop(self.sequences):
            self._give_up(sequence, error)
        self._admit()
        with suppress(queue.Empty):
            self._take(*self.events.get(timeout=WAIT_S))
            while True:
                self._take(*self.events.get_nowait())

    def fail_all(self, error: Exception) -> None:
        """End everything that waits or runs."""
        for sequence in self.sequences:
            self._give_up(sequence, error)

    def _admit(self) -> None:
        """Send waiting sequences to vLLM."""
        while self.waiting and len(self.calls) < self.remote.rows:
            # it waits until it is called, so that whoever fails finds it in one of the two
            sequence = self.waiting[0]
            sequence.begin(self.loaded.tokenizer)
            left = min(sequence.deadline - time.monotonic(), threading.TIMEOUT_MAX)
            if sequence.sampling.echo_logprobs:
                sequence.echo = Detokenizer(self.loaded.tokenizer)
                self.unscored[sequence] = len(sequence.prompt)
            self.calls[sequence] = Call(self.remote, sequence, self.events, max(0.1, left))
            self.waiting.popleft()

    def _take(self, sequence: Sequence, call: Call, event: dict[str, Any] | Exception) -> None:
        """One event of a sequence; what comes for one that has ended is dropped."""
        if self.calls.get(sequence) is not call:
            return
        try:
            if isinstance(event, Exception):
                raise event
            if "error" in event:
                raise VllmUnavailable(f"vLLM failed: {event['error']}")
            for choice in event["choices"]:
                self._take_choice(sequence, choice)
        except (OSError, http.client.HTTPException, LookupError, TypeError, ValueError) as error:
            # told like a service that stops: the caller may try again, or elsewhere
            problem = (
                error
                if isinstance(error, VllmUnavailable)
                else f"vLLM did not finish: {error!r:.200}"
            )
            self._give_up(sequence, Stopping(str(problem)))

    def _take_choice(self, sequence: Sequence, choice: dict[str, Any]) -> None:
        for score in read_scores(choice.get("logprobs"), sequence.sampling.logprobs):
            if self.unscored.get(sequence):
                self._report_score(sequence, score)
                continue
            told = None if sequence.sampling.logprobs is None else score
            if reason := take_token(sequence, score.token, told, self.loaded, self.observers):
                return self._finish(sequence, reason)
        if choice.get("finish_reason"):
            self._finish(sequence, "stop" if choice["finish_reason"] == "stop" else "length")

    def _report_score(self, sequence: Sequence, score: TokenScore) -> None:
        """Report the score of the prompt's next token."""
        self.unscored[sequence] -= 1
        scored = Scored(score, len(sequence.echo.text), of_prompt=True)
        sequence.report(NewText("", (scored,)))
        sequence.echo.push(score.token)

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self._let_go(sequence)
        finish(sequence, reason, self.observers)

    def _give_up(self, sequence: Sequence, error: Exception) -> None:
        self._let_go(sequence)
        give_up(sequence, error, self.observers)

    def _let_go(self, sequence: Sequence) -> None:
        """Forget a sequence, and hang up where vLLM computes it."""
        if call := self.calls.pop(sequence, None):
            call.close()
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.unscored.pop(sequence, None)
