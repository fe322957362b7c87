"""Streamed answers as server-sent events (SSE): an event for each piece of text, `[DONE]` last."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from devopsgpt_serving.api.pending_answers import PendingAnswers
from devopsgpt_serving.api.schemas import Usage
from devopsgpt_serving.engine.sequence import Finished, NewText
from devopsgpt_serving.errors import ApiError

log = logging.getLogger(__name__)

STREAMED: dict[str, Any] = {
    "description": "The answer; where `stream` is true, a chunk of the same form in each event, "
    "and [DONE].",
    "content": {
        "text/event-stream": {
            "schema": {"type": "object", "properties": {"data": {"type": "string"}}}
        }
    },
}


class Events(Protocol):
    """How one route tells an answer piece by piece."""

    include_usage: bool

    def opening(self) -> Iterator[str]:
        """Events before the first token."""

    def piece(self, index: int, report: NewText | Finished) -> str:
        """The event of new text, or of the end, of the index-th answer."""

    def usage(self, usage: Usage) -> str:
        """The event with the token counts."""


class EventStream(StreamingResponse):
    """A streamed answer; the engine is told when nobody listens any more."""

    def __init__(self, pending: PendingAnswers, events: Events, prompts: list[list[int]]) -> None:
        self.pending = pending
        self.events = events
        self.prompts = prompts
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._events(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the last, or until the caller hangs up."""
        self.state = scope["state"]
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.pending.cancel()

    async def _events(self) -> AsyncIterator[str]:
        events = self.events
        try:
            for event in events.opening():
                yield event
            async for reports in self.pending.stream():
                yield "".join([events.piece(index, report) for index, report in reports])
            if events.include_usage:
                yield events.usage(self.pending.usage(self.prompts))
        except ApiError as error:  # the status is sent already: the error can only be an event
            self.state["error_code"] = error.code  # the request middleware counts it
            told = {
                "request_id": self.state["request_id"],
                "code": error.code,
                "problem": error.message,
            }
            log.error("a stream failed", extra=told)
            yield event_of(error.body)
        yield "data: [DONE]\n\n"


def event_of(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
