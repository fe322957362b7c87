"""The batch of one model: sequences that wait for a row, rows that prefill, rows that decode.

Only the engine's thread touches a lane. A lane outlives its model's time as champion until its last
sequence ends. A row keeps its tokens after a sequence ended: a later prompt that begins alike
starts from there. Rows forget in the order of their last use.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.runner import Runner
from devopsgpt_serving.engine.sampling import Sampler, TokenScore, sample_each, score_token
from devopsgpt_serving.engine.sequence import (
    DeadlinePassed,
    FinishReason,
    Progress,
    Scored,
    Sequence,
)
from devopsgpt_serving.engine.text_stream import TextStream
from devopsgpt_serving.versions.cache import Version


class Cancelled(InterruptedError):
    """A sequence that nobody waits for any more."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model version that is ready to answer."""

    version: Version
    runner: Runner
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Observers:
    """Who hears of each sampled token and of each end (with its reason)."""

    token: Callable[[Sequence], None]
    ended: Callable[[Sequence, str], None]


@dataclass(eq=False)
class Row:
    """A row of the KV cache."""

    index: int
    held: list[int] = field(default_factory=list)
    """Ids whose keys and values the row has."""
    prompted: int = 0
    """How many of these were computed as a prompt, not as an answer."""
    used: int = 0
    """When a sequence last left it, in the lane's own count; 0 for never."""
    sequence: Sequence | None = None
    computing: bool = False
    """Whether the sequence's prompt has begun to take the row's place."""
    next_token: int | None = None
    """Sampled, not yet computed; None until the prompt is."""


class Lane:
    """Continuous batching over the rows of one model."""

    def __init__(self, loaded: LoadedModel, prefill_chunk: int, observers: Observers) -> None:
        self.loaded = loaded
        self.runner = loaded.runner
        self.prefill_chunk = prefill_chunk
        self.observers = observers
        self.waiting: deque[Sequence] = deque()
        self.prefilling: deque[Row] = deque()
        self.rows = [Row(index) for index in range(loaded.runner.rows)]
        self._uses = itertools.count(1)

    @property
    def running(self) -> int:
        return sum(row.sequence is not None for row in self.rows)

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    async def trouble(self) -> str | None:
        """What keeps this lane from computing, where that is done elsewhere; None where nothing
        does."""
        return None

    def step(self) -> None:
        """One round: seat who waits, compute a chunk of prompts, then one token for each that
        decodes."""
        self._drop()
        self._seat()
        room = self.prefill_chunk
        while self.prefilling and (done := self._prefill(self.prefilling[0], room)):
            room -= done
        self._decode()

    def fail_all(self, error: Exception) -> None:
        """End everything that waits or runs, and forget what the rows hold."""
        for sequence in self.waiting:
            self._give_up(sequence, error)
        self.waiting.clear()
        for row in self.rows:
            if row.sequence is not None:
                self._give_up(row.sequence, error)
                self._free(row)
            row.held = []

    def _drop(self) -> None:
        """End what was cancelled or ran out of time."""
        now = time.monotonic()
        for sequence in [waiting for waiting in self.waiting if _reason_to_drop(waiting, now)]:
            self.waiting.remove(sequence)
            self._give_up(sequence, _reason_to_drop(sequence, now) or Cancelled())
        for row in self.rows:
            if row.sequence is not None and (error := _reason_to_drop(row.sequence, now)):
                self._give_up(row.sequence, error)
                self._free(row)

    def _seat(self) -> None:
        """Give free rows to who waits."""
        free = [row for row in self.rows if row.sequence is None]
        while self.waiting and free:
            sequence = self.waiting.popleft()
            row = _row_for(sequence.prompt, free)
            free.remove(row)
            row.sequence = sequence
            sequence.begin(self.loaded.tokenizer, Sampler(sequence.sampling, sequence.prompt))
            self.prefilling.append(row)

    def _prefill(self, row: Row, room: int) -> int:
        """Compute the next chunk of a row's prompt; its first token once the prompt is complete.

        room: tokens that this round still computes; a prompt that does not fit in what others left
        waits
        returns: tokens computed
        """
        sequence = row.sequence
        if sequence is None:
            raise RuntimeError(f"row {row.index} is to be prefilled and has no sequence")
        if not row.computing:
            self._take_prefix(row, sequence)
        begin, every = len(row.held), sequence.sampling.echo_logprobs
        if room < self.prefill_chunk and len(sequence.prompt) - begin > room:
            return 0
        chunk = sequence.prompt[begin : begin + self.prefill_chunk]
        logits = self.runner.prefill(row.index, chunk, begin, every)
        row.held += chunk
        row.prompted = len(row.held)
        if every:
            self._score_prompt(sequence, begin, logits)
        if len(row.held) == len(sequence.prompt):
            self.prefilling.popleft()
            if sequence.sampling.max_tokens == 0:
                self._end(row, sequence, "length")
            else:
                self._advance([row], logits[-1:])
        return len(chunk)

    def _take_prefix(self, row: Row, sequence: Sequence) -> None:
        """Start a row with the longest beginning of the prompt that some row has computed."""
        row.computing = True
        # the last token is always computed: its logits are what the first sample is drawn from
        limit = 0 if sequence.sampling.echo_logprobs else len(sequence.prompt) - 1
        lengths = [
            min(limit, _common_prefix(self._kept(other), sequence.prompt)) for other in self.rows
        ]
        length = max(lengths)
        source = row.index if lengths[row.index] == length else lengths.index(length)
        if length and source != row.index:
            self.runner.copy_prefix(source, row.index, length)
        row.held, row.prompted = sequence.prompt[:length], length
        sequence.queried_tokens, sequence.cached_tokens = len(sequence.prompt), length

    def _kept(self, row: Row) -> list[int]:
        """What of a row a prompt may go on from."""
        return row.held if self.runner.reuses_answers else row.held[: row.prompted]

    def _score_prompt(self, sequence: Sequence, begin: int, logits: Tensor) -> None:
        """Report the scores of the prompt's tokens that these logits tell. logits: (t, V), of
        tokens begin.."""
        tokenizer, prompt = self.loaded.tokenizer, sequence.prompt
        if begin == 0:
            sequence.echo = TextStream(tokenizer)
        first = [TokenScore(prompt[0], None, ())] if begin == 0 else []
        targets = prompt[begin + 1 : begin + 1 + len(logits)]
        scores = [
            score_token(logits[i], target, sequence.sampling.logprobs or 0)
            for i, target in enumerate(targets)
        ]
        scored = []
        for score in first + scores:
            scored.append(Scored(score, len(sequence.echo.text), of_prompt=True))
            sequence.echo.push(score.token)
        sequence.report(Progress("", tuple(scored)))

    def _decode(self) -> None:
        """One token for each row that has one to compute. Rows between them may be computed and are
        not looked at.

        What is written for such a row lands behind what it holds, where its next token will be.
        """
        decoding = [row for row in self.rows if row.next_token is not None]
        if not decoding:
            return
        last = self.runner.block_size - 1
        batch = self.rows[: decoding[-1].index + 1]
        starts = [min(len(row.held), last) for row in batch]
        logits = self.runner.decode(
            [row.next_token or 0 for row in batch], starts, [row.index for row in decoding]
        )
        for row in decoding:
            row.held.append(row.next_token or 0)
        self._advance(decoding, logits)

    def _advance(self, rows: list[Row], logits: Tensor) -> None:
        """Draw the next token of each row. logits: (len(rows), V)"""
        sequences = [row.sequence for row in rows if row.sequence is not None]
        tokens = sample_each(logits, [sequence.sampler for sequence in sequences])
        for at, (row, sequence, token) in enumerate(zip(rows, sequences, tokens, strict=True)):
            top = sequence.sampling.logprobs
            self._accept(
                row, sequence, token, None if top is None else score_token(logits[at], token, top)
            )

    def _accept(self, row: Row, sequence: Sequence, token: int, score: TokenScore | None) -> None:
        """Report a row's next token, and see whether the answer ends."""
        if token == self.loaded.tokenizer.eot_id:
            return self._end(row, sequence, "stop")
        sequence.take(token, score)
        self.observers.token(sequence)
        row.next_token = token
        room = self.runner.block_size - len(sequence.prompt)
        if sequence.stream.stopped:
            self._end(row, sequence, "stop")
        elif len(sequence.tokens) >= min(sequence.sampling.max_tokens, room):
            self._end(row, sequence, "length")

    def _end(self, row: Row, sequence: Sequence, reason: FinishReason) -> None:
        self._free(row)
        self.observers.ended(sequence, reason)
        sequence.finish(reason)

    def _give_up(self, sequence: Sequence, error: Exception) -> None:
        self.observers.ended(sequence, _REASONS.get(type(error), "error"))
        sequence.fail(error)

    def _free(self, row: Row) -> None:
        if row in self.prefilling:
            self.prefilling.remove(row)
        if row.computing:
            row.used = next(self._uses)
        row.sequence, row.next_token, row.computing = None, None, False
        # see _decode: the last place may be written over
        row.held = row.held[: self.runner.block_size - 1]


_REASONS: dict[type[Exception], str] = {Cancelled: "cancelled", DeadlinePassed: "deadline"}


def _reason_to_drop(sequence: Sequence, now: float) -> Exception | None:
    if sequence.cancelled:
        return Cancelled("cancelled")
    if now > sequence.deadline:
        allowed = sequence.deadline - sequence.arrived
        return DeadlinePassed(
            f"not finished within {allowed:.0f} s; ask for fewer tokens, or try again later"
        )
    return None


def _row_for(prompt: list[int], free: list[Row]) -> Row:
    """The row that a prompt spoils least: one of which it goes on from half or more, else the one
    used longest ago."""
    kept = {row.index: _common_prefix(row.held, prompt) for row in free}
    best = max(free, key=lambda row: (kept[row.index], -len(row.held)))
    if 0 < len(best.held) <= 2 * kept[best.index]:
        return best
    return min(free, key=lambda row: row.used)


def _common_prefix(left: list[int], right: list[int]) -> int:
    for length, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return length
    return min(len(left), len(right))
