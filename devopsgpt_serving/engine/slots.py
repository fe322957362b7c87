"""The rows of the KV cache: who has each one, and what it holds for prompts to come.

A slot keeps its tokens after its sequence ended, so that a later prompt which begins alike starts
from there. The slot used longest ago is overwritten first.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from devopsgpt_serving.engine.sequence import Sequence


class Status(Enum):
    """What a slot is doing."""

    FREE = auto()
    ADMITTED = auto()
    """It has a sequence, and still holds what it held before."""
    PREFILLING = auto()
    """The prompt takes the slot's place."""
    DECODING = auto()
    """`next_token` was sampled and is to be computed."""


@dataclass(eq=False)
class Slot:
    """A row of the KV cache."""

    index: int
    status: Status = Status.FREE
    sequence: Sequence | None = None
    """None where the slot is free."""
    held: list[int] = field(default_factory=list)
    """Ids whose keys and values the slot has."""
    prompted: int = 0
    """How many of these were computed as a prompt, not as an answer."""
    used: int = 0
    """When a sequence last left it, in the scheduler's own count; 0 for never."""
    next_token: int = 0


def choose_slot(prompt: list[int], free: list[Slot]) -> Slot:
    """The slot that loses least to a prompt: one that shares half of its tokens or more, else the
    one used longest ago."""
    shared = {slot.index: common_prefix(slot.held, prompt) for slot in free}
    best = max(free, key=lambda slot: (shared[slot.index], -len(slot.held)))
    if 0 < len(best.held) <= 2 * shared[best.index]:
        return best
    return min(free, key=lambda slot: slot.used)


def common_prefix(left: list[int], right: list[int]) -> int:
    """How many tokens two lists begin with alike."""
    for length, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return length
    return min(len(left), len(right))
