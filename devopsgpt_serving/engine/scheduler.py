"""Our own engine's scheduler: chooses the next batch of one model.

Sequences wait for a slot, slots prefill, slots decode. A scheduler lives on after its model was
replaced, until its last sequence ends.
"""

import itertools
from collections import deque
from dataclasses import dataclass

from torch import Tensor

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.runner import Runner
from devopsgpt_serving.engine.detokenizer import Detokenizer
from devopsgpt_serving.engine.lifecycle import finish, give_up, take_token, to_drop
from devopsgpt_serving.engine.loaded_model import Observers
from devopsgpt_serving.engine.sampling import TokenScore, sample_each, score_token
from devopsgpt_serving.engine.sequence import FinishReason, NewText, Scored, Sequence
from devopsgpt_serving.engine.slots import Slot, Status, choose_slot, common_prefix
from devopsgpt_serving.version import Version


@dataclass(frozen=True, eq=False)
class LocalModel:
    """A model version that this process computes."""

    version: Version
    runner: Runner
    tokenizer: Tokenizer

    @property
    def block_size(self) -> int:
        return self.runner.block_size

    def scheduler(self, prefill_chunk: int, observers: Observers) -> "BatchScheduler":
        """A scheduler for this model, with nothing to do yet."""
        return BatchScheduler(self, prefill_chunk, observers)


class BatchScheduler:
    """Continuous batching over the slots of one model."""

    def __init__(self, loaded: LocalModel, prefill_chunk: int, observers: Observers) -> None:
        self.loaded = loaded
        self.runner = loaded.runner
        self.prefill_chunk = prefill_chunk
        self.observers = observers
        self.waiting: deque[Sequence] = deque()
        self.prefilling: deque[Slot] = deque()
        self.slots = [Slot(index) for index in range(loaded.runner.rows)]
        self._uses = itertools.count(1)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self.waiting, *(sequence for _, sequence in self._taken())]

    @property
    def running(self) -> int:
        return sum(slot.status is not Status.FREE for slot in self.slots)

    @property
    def kv_cache_usage(self) -> float:
        held = sum(len(slot.held) for slot, _ in self._taken())
        return held / (len(self.slots) * self.runner.block_size)

    async def trouble(self) -> str | None:
        """Nothing: this process computes as long as it lives."""
        return None

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for a slot."""
        self.waiting.append(sequence)

    def step(self) -> None:
        """One round: admit who waits, compute a chunk of prompts, then one token for each slot that
        decodes."""
        self._drop()
        self._admit()
        room = self.prefill_chunk
        while self.prefilling and (done := self._prefill(self.prefilling[0], room)):
            room -= done
        self._decode()

    def fail_all(self, error: Exception) -> None:
        """End everything that waits or runs, and forget what the slots hold."""
        for sequence in self.waiting:
            give_up(sequence, error, self.observers)
        self.waiting.clear()
        for slot, sequence in self._taken():
            give_up(sequence, error, self.observers)
            self._free(slot)
        for slot in self.slots:
            slot.held = []

    def _taken(self) -> list[tuple[Slot, Sequence]]:
        """The slots that are not free, each with its sequence."""
        return [(slot, slot.sequence) for slot in self.slots if slot.sequence is not None]

    def _drop(self) -> None:
        """End what was cancelled or ran out of time."""
        slots = {sequence: slot for slot, sequence in self._taken()}
        for sequence, error in to_drop(self.sequences):
            give_up(sequence, error, self.observers)
            if sequence in slots:
                self._free(slots[sequence])
            else:
                self.waiting.remove(sequence)

    def _admit(self) -> None:
        """Give free slots to who waits."""
        free = [slot for slot in self.slots if slot.status is Status.FREE]
        while self.waiting and free:
            sequence = self.waiting.popleft()
            slot = choose_slot(sequence.prompt, free)
            free.remove(slot)
            slot.sequence, slot.status = sequence, Status.ADMITTED
            sequence.begin(self.loaded.tokenizer)
            self.prefilling.append(slot)

    def _prefill(self, slot: Slot, room: int) -> int:
        """Compute the next chunk of a slot's prompt; its first token once the prompt is complete.

        room: tokens that this round still computes; a prompt that does not fit in what others left
        waits
        returns: tokens computed
        """
        sequence = slot.sequence
        if sequence is None:
            raise RuntimeError(f"slot {slot.index} is to be prefilled and has no sequence")
        if slot.status is Status.ADMITTED:
            self._take_prefix(slot, sequence)
        begin, every = len(slot.held), sequence.sampling.echo_logprobs
        if room < self.prefill_chunk and len(sequence.prompt) - begin > room:
            return 0
        chunk = sequence.prompt[begin : begin + self.prefill_chunk]
        logits = self.runner.prefill(slot.index, chunk, begin, every)
        slot.held += chunk
        slot.prompted = len(slot.held)
        if every:
            self._score_prompt(sequence, begin, logits)
        if len(slot.held) == len(sequence.prompt):
            self.prefilling.popleft()
            if sequence.sampling.max_tokens == 0:
                self._end(slot, sequence, "length")
            else:
                slot.status = Status.DECODING
                self._advance([slot], logits[-1:])
        return len(chunk)

    def _take_prefix(self, slot: Slot, sequence: Sequence) -> None:
        """Start a slot with the longest beginning of the prompt that some slot has computed."""
        slot.status = Status.PREFILLING
        # the last token is always computed: its logits are what the first sample is drawn from
        limit = 0 if sequence.sampling.echo_logprobs else len(sequence.prompt) - 1
        lengths = [
            min(limit, common_prefix(self._reusable(other), sequence.prompt))
            for other in self.slots
        ]
        length = max(lengths)
        source = slot.index if lengths[slot.index] == length else lengths.index(length)
        if length and source != slot.index:
            self.runner.copy_prefix(source, slot.index, length)
        slot.held, slot.prompted = sequence.prompt[:length], length
        sequence.queried_tokens, sequence.cached_tokens = len(sequence.prompt), length

    def _reusable(self, slot: Slot) -> list[int]:
        """What of a slot a prompt may go on from."""
        return slot.held if self.runner.reuses_answers else slot.held[: slot.prompted]

    def _score_prompt(self, sequence: Sequence, begin: int, logits: Tensor) -> None:
        """Report the scores of the prompt's tokens that these logits tell. logits: (t, V), of
        tokens begin.."""
        tokenizer, prompt = self.loaded.tokenizer, sequence.prompt
        if begin == 0:
            sequence.echo = Detokenizer(tokenizer)
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
        sequence.report(NewText("", tuple(scored)))

    def _decode(self) -> None:
        """One token for each slot that decodes. Slots between them may be computed, too; their
        numbers are not used.

        What is written for such a slot lands behind what it holds, where its next token will be.
        """
        decoding = [slot for slot in self.slots if slot.status is Status.DECODING]
        if not decoding:
            return
        last = self.runner.block_size - 1
        batch = self.slots[: decoding[-1].index + 1]
        starts = [min(len(slot.held), last) for slot in batch]
        logits = self.runner.decode(
            [slot.next_token for slot in batch], starts, [slot.index for slot in decoding]
        )
        for slot in decoding:
            slot.held.append(slot.next_token)
        self._advance(decoding, logits)

    def _advance(self, slots: list[Slot], logits: Tensor) -> None:
        """Draw the next token of each slot. logits: (len(slots), V)"""
        sequences = [slot.sequence for slot in slots if slot.sequence is not None]
        tokens = sample_each(logits, [sequence.sampler for sequence in sequences])
        for at, (slot, sequence, token) in enumerate(zip(slots, sequences, tokens, strict=True)):
            top = sequence.sampling.logprobs
            score = None if top is None else score_token(logits[at], token, top)
            slot.next_token = token
            if reason := take_token(sequence, token, score, self.loaded, self.observers):
                self._end(slot, sequence, reason)

    def _end(self, slot: Slot, sequence: Sequence, reason: FinishReason) -> None:
        self._free(slot)
        finish(sequence, reason, self.observers)

    def _free(self, slot: Slot) -> None:
        if slot in self.prefilling:
            self.prefilling.remove(slot)
        if slot.status is not Status.ADMITTED:
            slot.used = next(self._uses)
        slot.sequence, slot.status, slot.next_token = None, Status.FREE, 0
        # see _decode: the last place may be written over
        slot.held = slot.held[: self.runner.block_size - 1]
