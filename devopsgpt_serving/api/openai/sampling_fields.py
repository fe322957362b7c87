"""The fields that completions and chat share: OpenAI's, and vLLM's on top."""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from devopsgpt_serving.api.schemas import Fields, SamplingFields, at_most, numbers_only
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.errors import ApiError

DEFAULT_TEMPERATURE = 1.0  # OpenAI's
MAX_BIASES = 1024
MAX_STOP_TOKENS = 128

Bias = Annotated[float, Field(ge=-100, le=100), BeforeValidator(numbers_only)]
TokenName = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
TokenId = Annotated[int, Field(ge=0), BeforeValidator(numbers_only)]


class StreamOptions(Fields):
    """What a stream tells besides text."""

    model_config = ConfigDict(extra="ignore")

    include_usage: StrictBool | None = None
    include_obfuscation: StrictBool | None = None


OPTIONS_NAMED: dict[str, Any] = {
    "properties": {"stream_options": {"type": "object"}},
    "required": ["stream_options"],
}
STREAM_ASKED: dict[str, Any] = {"properties": {"stream": {"const": True}}, "required": ["stream"]}


class OpenAISampling(SamplingFields):
    """How an answer is made and told. Unknown fields are kept, to be named."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"if": OPTIONS_NAMED, "then": STREAM_ASKED}
    )

    model: str = Field(description="The model's id, as /v1/models lists it.")
    n: int | None = Field(default=None, ge=1, description="How many answers to each prompt.")
    stream: StrictBool | None = Field(
        default=None, description="Whether the answer comes piece by piece."
    )
    stream_options: StreamOptions | None = Field(
        default=None, description="Only where stream is true."
    )
    user: str | None = Field(default=None, description="Accepted and not used.")
    logit_bias: Annotated[dict[TokenName, Bias], at_most(MAX_BIASES)] | None = Field(
        default=None, description="Token id -> what is added to its logit, -100 to 100."
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Draw only tokens with this share of the likeliest one's probability.",
    )
    min_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Tokens before which nothing but max_tokens ends the answer.",
    )
    ignore_eos: StrictBool | None = Field(
        default=None, description="Whether the answer goes on after an end-of-text."
    )
    stop_token_ids: Annotated[list[TokenId], at_most(MAX_STOP_TOKENS)] | None = Field(
        default=None, description="Tokens that end the answer, besides end-of-text."
    )
    skip_special_tokens: StrictBool | None = Field(
        default=None, description="Whether end-of-text is left out of the text; true if unset."
    )
    return_tokens_as_token_ids: StrictBool | None = Field(
        default=None, description='Whether scored tokens are named "token_id:123".'
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | Literal[-1] | None = Field(
        default=None,
        description="Read only this many last tokens of a prompt; -1: as many as fit.",
    )
    parse_special: StrictBool | None = Field(
        default=None,
        description="Whether <|endoftext|> in a text is the special token; the service's default "
        "if unset.",
    )

    @field_validator("min_p", "min_tokens", "truncate_prompt_tokens", mode="before")
    @classmethod
    def _refuse_other_types(cls, value: object) -> object:
        return numbers_only(value)

    @field_validator("stream_options")
    @classmethod
    def _refuse_options_of_no_stream(
        cls, options: StreamOptions | None, others: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and "stream" in others.data and not others.data["stream"]:
            raise PydanticCustomError(
                "needs_stream", "Only taken where stream is true; leave it out"
            )
        return options

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def openai_sampling(self, max_tokens: int, loaded: LoadedModel, **more: object) -> Sampling:
        """What the engine is told.

        raises: ApiError 422 for a token id outside the vocabulary
        """
        biases = {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        stop_tokens = frozenset(self.stop_token_ids or ())
        vocab_size = loaded.tokenizer.vocab_size
        _check_ids("logit_bias", biases, vocab_size)
        _check_ids("stop_token_ids", stop_tokens, vocab_size)
        skip = self.skip_special_tokens
        return self.sampling(
            max_tokens,
            DEFAULT_TEMPERATURE,
            min_p=self.min_p or 0.0,
            min_tokens=self.min_tokens or 0,
            ignore_eos=bool(self.ignore_eos),
            stop_token_ids=stop_tokens,
            skip_special_tokens=True if skip is None else skip,
            logit_bias=tuple(biases.items()),
            **more,
        )


def _check_ids(
    field: Literal["logit_bias", "stop_token_ids"],
    ids: dict[int, float] | frozenset[int],
    vocab_size: int,
) -> None:
    if outside := [token for token in ids if token >= vocab_size]:
        message = f"{field}: token ids must be 0..{vocab_size - 1}, got {outside[0]}"
        raise ApiError(422, "invalid_value", message, field)
