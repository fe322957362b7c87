"""What every scheduler does with a sequence: drop it, give it a token, end it."""

import time

from devopsgpt_serving.engine.loaded_model import LoadedModel, Observers
from devopsgpt_serving.engine.sampling import TokenScore
from devopsgpt_serving.engine.sequence import FinishReason, Sequence
from devopsgpt_serving.errors import Cancelled, DeadlinePassed

_REASONS: dict[type[Exception], str] = {Cancelled: "cancelled", DeadlinePassed: "deadline"}


def to_drop(sequences: list[Sequence]) -> list[tuple[Sequence, Exception]]:
    """The sequences that were cancelled or ran out of time, and why."""
    now, found = time.monotonic(), list[tuple[Sequence, Exception]]()
    for sequence in sequences:
        if sequence.cancelled:
            found.append((sequence, Cancelled("cancelled")))
        elif now > sequence.deadline:
            allowed = f"{sequence.deadline - sequence.arrived:.0f} s"
            problem = f"not finished within {allowed}; ask for fewer tokens, or try again later"
            found.append((sequence, DeadlinePassed(problem)))
    return found


def take_token(
    sequence: Sequence,
    token: int,
    score: TokenScore | None,
    loaded: LoadedModel,
    observers: Observers,
) -> FinishReason | None:
    """Report a sequence's next token. returns: why its answer ends here; None where it goes on"""
    ends = sequence.take(token, score)
    observers.token(sequence)
    if ends:
        return "stop"
    room = loaded.block_size - len(sequence.prompt)
    return "length" if len(sequence.tokens) >= min(sequence.sampling.max_tokens, room) else None


def finish(sequence: Sequence, reason: FinishReason, observers: Observers) -> None:
    """End a sequence whose answer is whole."""
    observers.ended(sequence, reason)
    sequence.finish(reason)


def give_up(sequence: Sequence, error: Exception, observers: Observers) -> None:
    """End a sequence without its whole answer."""
    observers.ended(sequence, _REASONS.get(type(error), "error"))
    sequence.fail(error)
