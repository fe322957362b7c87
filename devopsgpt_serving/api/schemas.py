"""What both APIs share: sampling settings, their ranges checked once, and token counts."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.settings import Settings


def whole_characters(text: str) -> str:
    """raises: ValueError for half of a surrogate pair, which JSON can spell and UTF-8 cannot"""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be Unicode, got half a surrogate pair at character {error.start}"
        ) from None
    return text


def numbers_only(value: object) -> object:
    """raises: PydanticCustomError for true or "1", which pydantic would read as numbers"""
    if isinstance(value, bool | str):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


def at_most(most: int) -> BeforeValidator:
    """Refuses a longer list or object by its length, before an item is looked at."""

    def check(value: object) -> object:
        if isinstance(value, list | dict) and len(value) > most:
            raise PydanticCustomError(
                "too_long",
                "may have at most {most} items, got {got}",
                {"most": most, "got": len(value)},
            )
        return value

    return BeforeValidator(check)


class Fields(BaseModel):
    """An object of known fields, refused by its length where it has many more: each unknown one
    would be a complaint of its own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_many(cls, given: object) -> object:
        if isinstance(given, dict) and len(given) > MAX_FIELDS:
            raise PydanticCustomError(
                "too_many_fields",
                "an object may have at most {most} fields, got {got}",
                {"most": MAX_FIELDS, "got": len(given)},
            )
        return given


MAX_FIELDS = 100
MAX_STOP_STRINGS = 16
LARGEST_SEED = 2**53 - 1  # what JSON carries exactly between all languages

Text = Annotated[str, AfterValidator(whole_characters)]
PromptText = Annotated[str, Field(min_length=1), AfterValidator(whole_characters)]
StopString = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(whole_characters)]


_PASSED = {
    *("temperature", "top_k", "top_p", "seed"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
}
_NUMBERS = (
    *sorted(_PASSED),
    "max_token_len",
    "iterations",
    "max_tokens",
    "n",
    "best_of",
)  # also of subclasses


class SamplingFields(Fields):
    """How tokens are chosen."""

    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="0 takes the likeliest token each time; higher is more varied.",
    )
    top_k: int | None = Field(
        default=None,
        ge=-1,
        le=1_000_000,
        description="Draw from this many likeliest tokens; 0 or -1: all.",
    )
    top_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Draw from the likeliest tokens with this probability; 0: the likeliest.",
    )
    seed: int | None = Field(
        default=None,
        ge=-LARGEST_SEED,
        le=LARGEST_SEED,
        description="The same seed gives the same text from the same version.",
    )
    stop: Annotated[
        StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None,
        at_most(MAX_STOP_STRINGS),
    ] = Field(default=None, description="Texts at which an answer ends; they are not part of it.")
    repetition_penalty: float | None = Field(
        default=None, ge=0.1, le=10, description="Above 1 discourages tokens of prompt and answer."
    )
    presence_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Discourages tokens that were used."
    )
    frequency_penalty: float | None = Field(
        default=None, ge=-2, le=2, description="Discourages tokens by how often they were used."
    )

    @field_validator(*_NUMBERS, mode="before", check_fields=False)
    @classmethod
    def _refuse_what_is_no_number(cls, value: object) -> object:
        return numbers_only(value)

    def sampling(self, max_tokens: int, temperature: float, **more: object) -> Sampling:
        """What the engine is told. temperature: where the request names none"""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        named = self.model_dump(include=_PASSED, exclude_none=True)
        if named.get("top_k") == -1:  # vLLM's
            named["top_k"] = 0
        settings: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop": stop,
        }
        return Sampling(**(settings | named | more))


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def check_limits(
    settings: Settings,
    max_tokens: int,
    field: str,
    choices: int,
    choices_field: str,
    prompts: int = 1,
) -> None:
    """raises: ApiError 422 for more tokens, answers or prompts than this service takes;
    /openapi.json states each"""
    if max_tokens > settings.max_tokens:
        message = (
            f"{field}: at most {settings.max_tokens} tokens may be asked for, got {max_tokens}"
        )
        raise ApiError(422, "invalid_value", message, field)
    if choices > settings.max_choices:
        message = (
            f"{choices_field}: at most {settings.max_choices} answers to a prompt may be asked "
            f"for, got {choices}"
        )
        raise ApiError(422, "invalid_value", message, choices_field)
    if prompts > settings.max_prompts:
        message = (
            f"prompt: at most {settings.max_prompts} prompts may stand in one request, got "
            f"{prompts}"
        )
        raise ApiError(422, "invalid_value", message, "prompt")
