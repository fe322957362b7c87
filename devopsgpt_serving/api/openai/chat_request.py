"""What /v1/chat/completions is asked."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator
from pydantic_core import PydanticCustomError

from devopsgpt_serving.api.openai.sampling_fields import OpenAISampling
from devopsgpt_serving.api.schemas import Text, at_most, numbers_only

MAX_MESSAGES = 1024
MAX_PARTS = 64


class TextPart(BaseModel):
    """A piece of a message. Pictures and sounds are refused: the model reads text."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], at_most(MAX_PARTS)]

    @property
    def facts(self) -> dict[str, str]:
        """What a template sees."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text}


class ChatRequest(OpenAISampling):
    """OpenAI's fields, and vLLM's. A field that would change the answer's meaning and is not
    supported is refused; other unknown fields are ignored, and named in X-Ignored-Fields."""

    messages: Annotated[list[Message], at_most(MAX_MESSAGES), Field(min_length=1)]
    max_tokens: int | None = Field(
        default=None, ge=1, description="Most tokens of each answer; what fits if unset."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=1, description="The same under its newer name, which wins."
    )
    logprobs: StrictBool | None = Field(default=None, description="Whether tokens are scored.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Likeliest tokens beside each, with logprobs."
    )
    add_generation_prompt: StrictBool = Field(
        default=True, description="Whether the text ends where the assistant's turn begins."
    )

    @field_validator("max_completion_tokens", "top_logprobs", mode="before")
    @classmethod
    def _refuse_no_number(cls, value: object) -> object:
        return numbers_only(value)

    @field_validator("messages", mode="before")
    @classmethod
    def _refuse_no_list(cls, value: object) -> object:
        if not isinstance(value, list):
            raise PydanticCustomError("messages_type", "must be a list of messages")
        return value

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of an answer, under either name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def scored(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None scores nothing."""
        return (self.top_logprobs or 0) if self.logprobs else None


EXAMPLES: dict[str, Any] = {
    "plain": {
        "summary": "Ask a question",
        "value": {
            "model": "devopsgpt",
            "messages": [{"role": "user", "content": "What is an error budget?"}],
            "max_tokens": 60,
        },
    },
    "streamed": {
        "summary": "The same piece by piece",
        "value": {
            "model": "devopsgpt",
            "messages": [
                {"role": "system", "content": "Notes for the night shift."},
                {"role": "user", "content": "What is an error budget?"},
            ],
            "max_tokens": 60,
            "stream": True,
        },
    },
}
