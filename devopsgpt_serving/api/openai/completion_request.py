"""What /v1/completions is asked."""

from typing import Any, Literal

from pydantic import (
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError

from devopsgpt_serving.api.openai.sampling_fields import OpenAISampling
from devopsgpt_serving.api.prompts import Prompts
from devopsgpt_serving.api.schemas import numbers_only

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(OpenAISampling):
    """OpenAI's fields, and vLLM's. A field that would change the answer's meaning and is not
    supported is refused; other unknown fields are ignored, and named in X-Ignored-Fields."""

    prompt: Prompts = Field(
        default=[None],
        description="A text, token ids, or a list of either; without one, a new document begins.",
        json_schema_extra={"default": None},
    )
    max_tokens: int | None = Field(
        default=None,
        ge=0,
        description=f"Most tokens of each answer, {DEFAULT_MAX_TOKENS} if unset.",
    )
    best_of: int | None = Field(
        default=None, ge=1, description="As many as n: no answer is made to be left out."
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Score tokens, with this many likeliest beside each."
    )
    echo: StrictBool | None = Field(
        default=None, description="Whether the answer repeats the prompt."
    )
    suffix: Literal[""] | None = Field(
        default=None, description="Nothing: no text can be inserted before another."
    )

    @field_validator("logprobs", mode="before")
    @classmethod
    def _refuse_true(cls, value: object) -> object:
        return numbers_only(value)

    @field_validator("suffix", mode="wrap")
    @classmethod
    def _refuse_a_suffix(cls, value: object, check: ValidatorFunctionWrapHandler) -> object:
        try:
            return check(value)
        except ValidationError:
            raise _only('null or ""') from None

    @field_validator("best_of")
    @classmethod
    def _refuse_more_than_are_told(cls, best_of: int | None, others: ValidationInfo) -> int | None:
        if best_of is not None and "n" in others.data and best_of != (n := others.data["n"] or 1):
            raise _only(f"null or as many as n, {n},")
        return best_of


def _only(possible: str) -> PydanticCustomError:
    """What is told of a field of OpenAI's that this service takes where it changes nothing."""
    return PydanticCustomError(
        "unsupported", "Only {possible} is supported; leave it out", {"possible": possible}
    )


EXAMPLES: dict[str, Any] = {
    "plain": {
        "summary": "Go on from a prompt",
        "value": {"model": "devopsgpt", "prompt": "An error budget is", "max_tokens": 40},
    },
    "streamed": {
        "summary": "The same piece by piece, with token counts at the end",
        "value": {
            "model": "devopsgpt",
            "prompt": "An error budget is",
            "max_tokens": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "scored": {
        "summary": "Score a text: no new token, log-probabilities of the prompt's",
        "value": {
            "model": "devopsgpt",
            "prompt": "Hope is not a plan.",
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
        },
    },
}
