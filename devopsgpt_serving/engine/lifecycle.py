"""What every scheduler does with a sequence: drop it, give it a token, end it."""

import time

from devopsgpt_serving.engine.loaded_model import LoadedModel, Observers
from devopsgpt_serving.engine.sampling import TokenScore
from devopsgpt_serving.engine.sequence import FinishReason, Sequence
from devopsgpt_serving.errors import Cancelled, DeadlinePassed

_REASONS: dict[type[Exception], str] = {Cancelled: "cancelled", DeadlinePassed: "deadline"}


def reason_to_drop(sequence: Sequence, now: float) -> Exception | None:
    """Why a sequence is not computed any further; None where it is. now: time.monotonic()"""
    if sequence.cancelled:
        return Cancelled("cancelled")
    if now > sequence.deadline:
        allowed = sequence.deadline - sequence.arrived
        return DeadlinePassed(
            f"not finished within {allowed:.0f} s; ask for fewer tokens, or try again later"
        )
    return None


def to_drop(sequences: list[Sequence]) -> list[tuple[Sequence, Exception]]:
    """The sequences that were cancelled or ran out of time, and why."""
    now = time.monotonic()
    found = [(sequence, reason_to_drop(sequence, now)) for sequence in sequences]
    return [(sequence, error) for sequence, error in found if error is not None]


def take_token(
    sequence: Sequence,
    token: int,
    score: TokenScore | None,
    loaded: LoadedModel,
    observers: Observers,
) -> FinishReason | None:
    """Report a sequence's next token. returns: why its answer ends here; None where it goes on"""
    if token == loaded.tokenizer.eot_id:
        return "stop"
    sequence.take(token, score)
    observers.token(sequence)
    if sequence.detokenizer.stopped:
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
