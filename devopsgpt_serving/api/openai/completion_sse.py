"""The events of a streamed /v1/completions: OpenAI's completion objects with one choice each."""

from collections.abc import Iterator
from typing import Any

from devopsgpt_serving.api.openai.completion_objects import (
    Choice,
    CompletionAnswer,
    Style,
    choice_of,
)
from devopsgpt_serving.api.schemas import Usage
from devopsgpt_serving.api.sse import event_of
from devopsgpt_serving.engine.sequence import Finished, NewText


class CompletionEvents:
    """Pieces of completions; echoes, the repeated prompts, come first."""

    def __init__(
        self, style: Style, head: dict[str, Any], echoes: list[str], include_usage: bool
    ) -> None:
        self.style = style
        self.head = head
        self.echoes = echoes
        self.include_usage = include_usage
        # all chunks are alike but for their choice
        chunk = CompletionAnswer(**head, choices=[]).model_dump_json(
            exclude=None if include_usage else {"usage"}
        )
        before, _, after = chunk.rpartition("[]")
        self.before, self.after = f"{before}[", f"]{after}"

    def opening(self) -> Iterator[str]:
        """The echoes, where there are any."""
        for index, echo in enumerate(self.echoes):
            if echo:
                yield self._chunk(choice_of(self.style, index, echo, [], 0, None))

    def piece(self, index: int, report: NewText | Finished) -> str:
        """A chunk with new text and scores, or with the reason of the end."""
        echoed = len(self.echoes[index])
        if isinstance(report, Finished):
            return self._chunk(choice_of(self.style, index, "", [], echoed, report.reason))
        return self._chunk(
            choice_of(self.style, index, report.text, list(report.scored), echoed, None)
        )

    def usage(self, usage: Usage) -> str:
        """The last chunk: no choice, the token counts."""
        return event_of(CompletionAnswer(**self.head, choices=[], usage=usage).model_dump())

    def _chunk(self, choice: Choice) -> str:
        return f"data: {self.before}{choice.model_dump_json()}{self.after}\n\n"
