"""The original's route: /api/generate."""

import difflib
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from devopsgpt_serving.api.error_answers import invalid, responses
from devopsgpt_serving.api.pending_answers import PendingAnswers
from devopsgpt_serving.api.prompts import encode
from devopsgpt_serving.api.schemas import PromptText, SamplingFields, Text, Usage, check_limits
from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.engine.sequence import FinishReason

router = APIRouter()
Here = Annotated[Service, Depends(service_of)]

DEFAULT_MAX_TOKEN_LEN = 100  # the original's
DEFAULT_TEMPERATURE = 0.8  # nanoGPT's sample.py, which the original's users know


# what other services call a field of /api/generate
MEANT = {
    **dict.fromkeys(("max_tokens", "max_new_tokens", "max_length", "length"), "max_token_len"),
    **dict.fromkeys(("n", "num_return_sequences", "num_samples", "best_of"), "iterations"),
    **dict.fromkeys(("text", "inputs", "input", "messages"), "prompt"),
    **dict.fromkeys(("system", "prefix", "context"), "pre_prompt"),
    **dict.fromkeys(("stop_sequences", "stop_strings"), "stop"),
    "random_seed": "seed",
}


class GenerateRequest(SamplingFields):
    """What to go on from, and how."""

    prompt: PromptText | None = Field(
        default=None, description="Text to go on from; without one, a new document begins."
    )
    pre_prompt: Text | None = Field(
        default=None, description="Text put before the prompt, a space between them."
    )
    max_token_len: int | None = Field(
        default=None,
        ge=1,
        description=f"Most tokens of each answer, {DEFAULT_MAX_TOKEN_LEN} if unset.",
    )
    iterations: int = Field(default=1, ge=1, description="How many answers.")

    @model_validator(mode="before")
    @classmethod
    def _suggest_the_right_name(cls, given: object) -> object:
        names = given if isinstance(given, dict) else {}
        unknown = next((name for name in names if name not in cls.model_fields), None)
        if unknown is None:
            return given
        close = difflib.get_close_matches(unknown[:100], [*cls.model_fields], n=1)
        meant = MEANT.get(unknown, close[0] if close else None)
        raise PydanticCustomError(
            "unknown_field",
            "{field}: there is no such field; {remedy}",
            {
                "field": unknown[:100],
                "remedy": f"use {meant}" if meant else "leave it out; /docs lists those there are",
            },
        )


class Completion(BaseModel):
    """One answer. finish_reason: "stop" at a natural end or a stop string, "length" at a limit"""

    text: str
    finish_reason: FinishReason


class GenerateAnswer(BaseModel):
    """The answers, and which version of which model gave them."""

    completions: list[Completion]
    model: str
    version: str
    usage: Usage


EXAMPLES: Any = {
    "plain": {
        "summary": "Go on from a prompt",
        "value": {"prompt": "An error budget is", "max_token_len": 40},
    },
    "steered": {
        "summary": "Two varied answers that end with the paragraph",
        "value": {
            "pre_prompt": "Notes for the night shift.",
            "prompt": "When a disk fills up,",
            "max_token_len": 60,
            "iterations": 2,
            "temperature": 0.9,
            "top_k": 50,
            "seed": 7,
            "stop": "\n\n",
        },
    },
}


@router.post(
    "/api/generate",
    tags=["generate"],
    summary="Continue a text",
    responses=responses(400, 401, 413, 422, 429, 500, 503, 504),
)
async def generate(
    request: Request,
    service: Here,
    body: Annotated[GenerateRequest | None, Body(openapi_examples=EXAMPLES)] = None,
    prompt: Annotated[
        str | None, Query(min_length=1, description="As in the body, which wins.")
    ] = None,
    pre_prompt: Annotated[str | None, Query()] = None,
    max_token_len: Annotated[int | None, Query(ge=1)] = None,
    iterations: Annotated[int | None, Query(ge=1)] = None,
) -> GenerateAnswer:
    """Text that follows a prompt: `iterations` answers of at most `max_token_len` tokens each."""
    query = dict(
        prompt=prompt, pre_prompt=pre_prompt, max_token_len=max_token_len, iterations=iterations
    )
    asked_for = merge(body, query)
    settings = service.settings
    max_tokens = asked_for.max_token_len or min(DEFAULT_MAX_TOKEN_LEN, settings.max_tokens)
    largest = max(max_tokens, max_token_len or 0), max(asked_for.iterations, iterations or 0)
    check_limits(settings, largest[0], "max_token_len", largest[1], "iterations")
    text = whole_prompt(asked_for, settings.pre_prompt)
    service.log_prompt(request, text)
    scheduler = service.scheduler()
    (ids,) = await encode([text or None], scheduler.loaded)
    sampling = asked_for.sampling(max_tokens, DEFAULT_TEMPERATURE)
    request.state.version = scheduler.loaded.version.number
    pending = PendingAnswers(
        request,
        service,
        scheduler,
        [(ids, sampling.choice(index)) for index in range(asked_for.iterations)],
    )
    answers = await pending.whole(request)
    return GenerateAnswer(
        completions=[
            Completion(text=answer.text, finish_reason=answer.finish_reason) for answer in answers
        ],
        model=settings.model_name,
        version=scheduler.loaded.version.number,
        usage=pending.usage([ids]),
    )


def merge(body: GenerateRequest | None, query: dict[str, Any]) -> GenerateRequest:
    """The original's query parameters beneath the body's fields. raises: ApiError 422"""
    named = {name: value for name, value in query.items() if value is not None}
    try:
        return GenerateRequest(**(named | (body.model_dump(exclude_unset=True) if body else {})))
    except ValidationError as error:
        raise invalid([dict(one) for one in error.errors()]) from error


def whole_prompt(asked_for: GenerateRequest, default_pre_prompt: str) -> str:
    """What the model reads: pre_prompt and prompt, a space between them where there is none."""
    before = default_pre_prompt if asked_for.pre_prompt is None else asked_for.pre_prompt
    prompt = asked_for.prompt or ""
    glue = " " if before and prompt and not before[-1].isspace() else ""
    return before + glue + prompt
