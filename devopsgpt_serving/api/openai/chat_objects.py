"""What /v1/chat/completions answers with: OpenAI's objects, whole and as the events of a stream."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from devopsgpt_serving.api.openai.completion_objects import Style
from devopsgpt_serving.api.schemas import Usage
from devopsgpt_serving.api.sse import event_of
from devopsgpt_serving.engine.sequence import Finished, FinishReason, NewText, Scored


class TopLogprob(BaseModel):
    """A likely token in one's place. bytes: its UTF-8, also where it is part of a character"""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Scores token by token."""

    content: list[TokenLogprob]


class ChatMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatAnswer(BaseModel):
    """OpenAI's chat completion object."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


def chat_logprobs(style: Style, scored: Sequence[Scored]) -> ChatLogprobs | None:
    """The scores of tokens; None where none are asked for."""
    if not style.scored:
        return None

    def one(token: int, logprob: float | None) -> dict[str, Any]:
        content = list(style.tokenizer.decode_bytes([token]))
        return {"token": style.name(token), "logprob": logprob or 0.0, "bytes": content}

    return ChatLogprobs(
        content=[
            TokenLogprob(
                **one(each.score.token, each.score.logprob),
                top_logprobs=[TopLogprob(**one(*pair)) for pair in each.score.top],
            )
            for each in scored
        ]
    )


class ChatEvents:
    """A streamed chat: the role, pieces of the content, the reason of the end."""

    def __init__(
        self, style: Style, head: dict[str, Any], choices: int, include_usage: bool
    ) -> None:
        self.style = style
        self.head = head | {"object": "chat.completion.chunk"}
        self.choices = choices
        self.include_usage = include_usage

    def opening(self) -> Iterator[str]:
        """Who speaks, for each answer."""
        for index in range(self.choices):
            yield self._chunk(index, {"role": "assistant", "content": ""}, None, [])

    def piece(self, index: int, report: NewText | Finished) -> str:
        """A chunk with new text, or with the reason of the end."""
        if isinstance(report, Finished):
            return self._chunk(index, {}, report.reason, [])
        return self._chunk(index, {"content": report.text}, None, report.scored)

    def usage(self, usage: Usage) -> str:
        """The last chunk: no choice, the token counts."""
        return event_of(self.head | {"choices": [], "usage": usage.model_dump()})

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        reason: FinishReason | None,
        scored: Sequence[Scored],
    ) -> str:
        logprobs = chat_logprobs(self.style, scored) if scored else None
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs.model_dump() if logprobs else None,
            "finish_reason": reason,
        }
        usage = {"usage": None} if self.include_usage else {}
        return event_of(self.head | {"choices": [choice]} | usage)
