"""/v1/completions as server-sent events (SSE): a chunk for each piece of text, one with the end,
`[DONE]`."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from devopsgpt_serving.api.completion_objects import Choice, CompletionAnswer, Style, choice_of
from devopsgpt_serving.api.pending_answers import PendingAnswers
from devopsgpt_serving.engine.sequence import Finished, NewText
from devopsgpt_serving.errors import ApiError

log = logging.getLogger(__name__)


class CompletionStream(StreamingResponse):
    """A streamed answer; the engine is told when nobody listens any more."""

    def __init__(
        self,
        pending: PendingAnswers,
        style: Style,
        head: dict[str, Any],
        echoes: list[str],
        prompts: list[list[int]],
        include_usage: bool,
    ) -> None:
        self.pending = pending
        self.style = style
        self.head = head
        self.echoes = echoes
        self.prompts = prompts
        self.include_usage = include_usage
        # all chunks are alike but for their choice
        chunk = CompletionAnswer(**head, choices=[]).model_dump_json(
            exclude=None if include_usage else {"usage"}
        )
        before, _, after = chunk.rpartition("[]")
        self.before, self.after = f"{before}[", f"]{after}"
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
        try:
            for index, echo in enumerate(self.echoes):
                if echo:
                    yield self._chunk(choice_of(self.style, index, echo, [], 0, None))
            async for reports in self.pending.stream():
                yield "".join(self._chunk(self._choice(index, report)) for index, report in reports)
            if self.include_usage:
                usage = self.pending.usage(self.prompts)
                yield _event(CompletionAnswer(**self.head, choices=[], usage=usage).model_dump())
        except ApiError as error:  # the status is sent already: the error can only be an event
            self.state["error_code"] = error.code  # the request middleware counts it
            told = {
                "request_id": self.state["request_id"],
                "code": error.code,
                "problem": error.message,
            }
            log.error("a stream failed", extra=told)
            yield _event(error.body)
        yield "data: [DONE]\n\n"

    def _choice(self, index: int, report: NewText | Finished) -> Choice:
        echoed = len(self.echoes[index])
        if isinstance(report, Finished):
            return choice_of(self.style, index, "", [], echoed, report.reason)
        return choice_of(self.style, index, report.text, list(report.scored), echoed, None)

    def _chunk(self, choice: Choice) -> str:
        return f"data: {self.before}{choice.model_dump_json()}{self.after}\n\n"


def _event(content: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
