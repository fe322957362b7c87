"""The original's routes: /api/healthz, /api/readyz, /api/generate; and /admin/reload."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from pydantic import BaseModel, Field, ValidationError

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
DRAINING_CHECK_S = 0.2  # how soon a reload that waits sees that the service stops


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


class Ready(BaseModel):
    """Whether requests are answered; where keys are set, all that others are told."""

    ready: bool


class Readiness(Ready):
    """Whether requests are answered, by what, and what stands in the way of something newer."""

    model: str
    version: str | None
    registry_up: bool | None
    from_cache: bool
    problem: str | None
    tags: dict[str, str]


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


@router.get("/api/healthz", tags=["health"], responses=responses(500))
async def healthz(service: Here, response: Response) -> dict[str, bool]:
    """Whether the process lives. A model is not needed for that; /api/readyz tells about the
    model."""
    if not service.engine.alive:
        response.status_code = 500
    return {"api_healthy": service.engine.alive}


@router.get(
    "/api/readyz",
    tags=["health"],
    responses={503: {"model": Readiness | Ready, "description": "Not ready"}},
)
async def readyz(request: Request, service: Here, response: Response) -> Readiness | Ready:
    """Whether requests are answered, and by which version. Where keys are set and none is sent,
    only whether."""
    readiness = await _readiness(service)
    if not readiness.ready:
        response.status_code = 503
    return readiness if request.state.known else Ready(ready=readiness.ready)


async def _readiness(service: Service) -> Readiness:
    state, problem = service.follower.state, await service.present_problem()
    served = state.served
    return Readiness(
        ready=problem is None,
        model=service.settings.model_name,
        version=served.number if served else None,
        registry_up=state.registry_up,
        from_cache=state.from_cache,
        problem=problem or state.problem,
        tags=served.tags if served else {},
    )


@router.post(
    "/api/generate", tags=["generate"], responses=responses(400, 401, 413, 422, 429, 500, 503, 504)
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


@router.post("/admin/reload", tags=["admin"], responses=responses(401))
async def reload(service: Here) -> Readiness:
    """Look at the registry now instead of at the next turn, also at a version that was refused
    before."""
    looked = asyncio.wrap_future(service.follower.ask())
    # a look may take longer than a service that stops can wait
    while not (looked.done() or service.draining):
        await asyncio.wait([looked], timeout=DRAINING_CHECK_S)
    return await _readiness(service)


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
