"""The prompts of a request: one text, token ids, or a list of either, read with one look at each.

pydantic would try every form on every item and keep each complaint: a body of a megabyte took it
half a minute. Lengths are checked before items, and the first fault ends the reading.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from devopsgpt_model.tokenizer import END_OF_TEXT, Tokenizer
from devopsgpt_serving.api.schemas import PromptText, whole_characters
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.settings import LARGEST_MAX_PROMPTS

Prompt = str | list[int] | None
"""A text, token ids, or the beginning of a new document."""

_Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_Texts = Annotated[list[PromptText], Field(min_length=1)]
_Lists = Annotated[list[_Ids], Field(min_length=1)]


def read_prompts(value: object) -> list[Prompt]:
    """The prompts of a request, one by one. raises: PydanticCustomError for the first fault"""
    if value is None or isinstance(value, str):
        return [_text(value)]
    if not isinstance(value, list):
        raise _wrong(value)
    if not value:
        raise _empty()
    if _is_number(value[0]):
        return [_ids(value)]
    if len(value) > LARGEST_MAX_PROMPTS:
        raise PydanticCustomError(
            "too_long",
            "at most {most} prompts may stand in one request, got {got}",
            {"most": LARGEST_MAX_PROMPTS, "got": len(value)},
        )
    read = _text if isinstance(value[0], str) else _ids
    return [read(one) for one in value]


Prompts = Annotated[
    list[Prompt],
    PlainValidator(read_prompts, json_schema_input_type=PromptText | _Ids | _Texts | _Lists | None),
]


def _text(value: Any) -> Prompt:
    if value is not None and not isinstance(value, str):
        raise _wrong(value)
    if value == "":
        raise _empty()
    return None if value is None else whole_characters(value)


def _ids(value: Any) -> list[int]:
    """A list that is not empty; its items are looked at when its length is known to fit."""
    if not isinstance(value, list):
        raise _wrong(value)
    if not value:
        raise _empty()
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _empty() -> PydanticCustomError:
    return PydanticCustomError("too_short", "must have at least one item")


def _wrong(value: object) -> PydanticCustomError:
    return PydanticCustomError(
        "prompt_type",
        "must be a text, a list of token ids, or a list of either kind, got {got}",
        {"got": _shown(value)},
    )


def _shown(value: object) -> str:
    return repr(value)[:50] if isinstance(value, int | float | str) else type(value).__name__


@dataclass(frozen=True)
class Reading:
    """How prompts become token ids."""

    spare: int = 1
    """Tokens that must still fit into the model's context."""
    parse_special: bool = False
    """Whether <|endoftext|> in a text is the special token."""
    truncate: int | None = None
    """How many of the last tokens are read; -1: as many as fit, None: all, or an error."""

    def most(self, block_size: int) -> int:
        """Tokens that a prompt may have."""
        return block_size - self.spare


PLAIN = Reading()
# Of a text that is encoded though it is longer than the context: 65 ms for one word of GPT-2, the
# slowest; 900,000 took half a second.
MOST_CHARACTERS = 100_000


async def encode(
    prompts: Sequence[Prompt], loaded: LoadedModel, reading: Reading = PLAIN
) -> list[list[int]]:
    """Token ids of each prompt; of none at all, those that begin a new document.

    raises: ApiError 400 for one that is too long, 422 for one with ids outside the vocabulary
    """
    return await asyncio.to_thread(lambda: [_encode(one, loaded, reading) for one in prompts])


def _encode(prompt: Prompt, loaded: LoadedModel, reading: Reading) -> list[int]:
    tokenizer, room = loaded.tokenizer, reading.most(loaded.block_size)
    if isinstance(prompt, str):
        # no token is longer than the longest: so many there are at least, and need not be made
        special = prompt.count(END_OF_TEXT) if reading.parse_special else 0
        rest = len(prompt.encode()) - special * len(END_OF_TEXT)
        least = special - (-rest // tokenizer.longest_token)
        if reading.truncate is not None:
            check_length(prompt)
        elif least > room:
            raise _too_long(room, loaded.block_size, f"at least {least}")
        ids = encode_text(prompt, tokenizer, reading.parse_special)
    else:
        ids = prompt or [tokenizer.eot_id]
    if reading.truncate is not None:
        ids = ids[-(room if reading.truncate < 0 else reading.truncate) :]
    if len(ids) > room:
        raise _too_long(room, loaded.block_size, str(len(ids)))
    return [_id(one, tokenizer.vocab_size) for one in ids]


def check_length(text: str) -> None:
    """raises: ApiError 400 for a text that would take long to encode"""
    if len(text) > MOST_CHARACTERS:
        raise ApiError(
            400,
            "context_length_exceeded",
            f"prompt: at most {MOST_CHARACTERS} characters are encoded, got {len(text)}; send a "
            "part of it",
            "prompt",
        )


def encode_text(text: str, tokenizer: Tokenizer, parse_special: bool) -> list[int]:
    """Token ids of a text, with or without special tokens in it."""
    return tokenizer.encode_special(text) if parse_special else tokenizer.encode(text)


def _id(value: Any, vocab_size: int) -> int:
    # JSON does not tell 5.0 from 5
    if not _is_number(value) or value != value // 1 or not 0 <= value < vocab_size:
        message = f"prompt: token ids must be 0..{vocab_size - 1}, got {_shown(value)}"
        raise ApiError(422, "invalid_value", message, "prompt")
    return int(value)


def _too_long(room: int, block_size: int, got: str) -> ApiError:
    return ApiError(
        400,
        "context_length_exceeded",
        f"the prompt may have at most {room} tokens (the model's context is {block_size}), got "
        f"{got}; shorten it",
        "prompt",
    )
