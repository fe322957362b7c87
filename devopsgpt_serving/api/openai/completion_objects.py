"""What /v1/completions answers with: OpenAI's objects, from the engine's texts and scores."""

import time
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.api.schemas import Usage
from devopsgpt_serving.engine.detokenizer import token_text
from devopsgpt_serving.engine.sampling import TokenScore
from devopsgpt_serving.engine.sequence import FinishReason, Scored


class Logprobs(BaseModel):
    """Scores token by token. text_offset: where each begins in the choice's text, in characters

    top_logprobs: the likeliest tokens in each one's place, and itself where it is none of them
    """

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class Choice(BaseModel):
    """One answer, or a piece of it in a stream."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: FinishReason | None


class CompletionAnswer(BaseModel):
    """OpenAI's completion object. system_fingerprint: model and version"""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage | None = None


@dataclass(frozen=True)
class Style:
    """How the tokens of one request are told. scored: whether with their log-probabilities; as_ids:
    whether by their ids, which tell apart tokens of the same text"""

    tokenizer: Tokenizer
    scored: bool
    as_ids: bool = False

    def name(self, token: int) -> str:
        """A token as this request wants it."""
        return f"token_id:{token}" if self.as_ids else token_text(self.tokenizer, token)


def answer_header(request_id: str, model: str, version: str, kind: str = "cmpl") -> dict[str, Any]:
    """What every object of one answer begins with. kind: the beginning of its id"""
    return {
        "id": f"{kind}-{request_id}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"{model}-{version}",
    }


def choice_of(
    style: Style,
    index: int,
    text: str,
    scored: list[Scored],
    echoed: int,
    finish_reason: FinishReason | None,
) -> Choice:
    """One choice. echoed: characters of the prompt that stand before the answer's own text"""
    logprobs = _logprobs(style, scored, echoed) if style.scored else None
    # checking what we made ourselves would be a third of a streamed token's cost
    return Choice.model_construct(
        index=index, text=text, logprobs=logprobs, finish_reason=finish_reason
    )


def _logprobs(style: Style, scored: list[Scored], echoed: int) -> Logprobs:
    def top(score: TokenScore) -> dict[str, float] | None:
        if score.logprob is None:
            return None
        return {
            style.name(token): value for token, value in (*score.top, (score.token, score.logprob))
        }

    return Logprobs(
        text_offset=[one.offset + (0 if one.of_prompt else echoed) for one in scored],
        token_logprobs=[one.score.logprob for one in scored],
        tokens=[style.name(one.score.token) for one in scored],
        top_logprobs=[top(one.score) for one in scored],
    )
