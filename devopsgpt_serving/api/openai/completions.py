"""/v1/completions, so that OpenAI's and vLLM's clients work unchanged."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response

from devopsgpt_serving.api.error_answers import responses
from devopsgpt_serving.api.openai.completion_objects import (
    CompletionAnswer,
    Style,
    answer_header,
    choice_of,
)
from devopsgpt_serving.api.openai.completion_request import (
    DEFAULT_MAX_TOKENS,
    EXAMPLES,
    CompletionRequest,
)
from devopsgpt_serving.api.openai.completion_sse import CompletionEvents
from devopsgpt_serving.api.openai.ignored_fields import ignore_unknown
from devopsgpt_serving.api.openai.models import check_model
from devopsgpt_serving.api.pending_answers import PendingAnswers
from devopsgpt_serving.api.prompts import Prompt, Reading, encode
from devopsgpt_serving.api.schemas import check_limits
from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.api.sse import STREAMED, EventStream
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.engine.sampling import Sampling

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Here = Annotated[Service, Depends(service_of)]


@router.post(
    "/completions",
    summary="Complete prompts",
    response_model=CompletionAnswer,
    responses=responses(400, 401, 404, 413, 422, 429, 500, 503, 504) | {200: STREAMED},
)
async def complete(
    request: Request,
    service: Here,
    body: Annotated[CompletionRequest, Body(openapi_examples=EXAMPLES)],
) -> Response | CompletionAnswer:
    """Text that follows each prompt; streamed as server-sent events where `stream` is true."""
    check_model(body.model, service)
    ignore_unknown(request, service, body.model_extra or {})
    scheduler = service.scheduler()
    loaded = scheduler.loaded
    default = min(DEFAULT_MAX_TOKENS, service.settings.max_tokens)
    max_tokens = default if body.max_tokens is None else body.max_tokens
    service.log_prompt(request, body.prompt)
    check_limits(
        service.settings, max_tokens, "max_tokens", body.n or 1, "n", prompts=len(body.prompt)
    )
    sampling = _sampling(body, max_tokens, loaded)
    reading = Reading(
        spare=1 if max_tokens else 0,
        parse_special=service.parses_special(body.parse_special),
        truncate=body.truncate_prompt_tokens,
    )
    prompts = await encode(body.prompt, loaded, reading)
    request.state.version = loaded.version.number
    wanted = [
        (prompt, sampling.choice(index)) for prompt in prompts for index in range(body.n or 1)
    ]
    pending = PendingAnswers(request, service, scheduler, wanted)
    style = Style(
        loaded.tokenizer, body.logprobs is not None, bool(body.return_tokens_as_token_ids)
    )
    head = answer_header(request.state.request_id, body.model, loaded.version.number)
    echoes = _echoes(body, prompts, loaded)
    if body.stream:
        events = CompletionEvents(style, head, echoes, body.includes_usage)
        return EventStream(pending, events, prompts)
    answers = await pending.whole(request)
    choices = [
        choice_of(style, index, echo + answer.text, answer.scored, len(echo), answer.finish_reason)
        for index, (echo, answer) in enumerate(zip(echoes, answers, strict=True))
    ]
    return CompletionAnswer(**head, choices=choices, usage=pending.usage(prompts))


def _sampling(body: CompletionRequest, max_tokens: int, loaded: LoadedModel) -> Sampling:
    scored: dict[str, Any] = {
        "logprobs": body.logprobs,
        "echo_logprobs": bool(body.echo) and body.logprobs is not None,
    }
    return body.openai_sampling(max_tokens, loaded, **scored)


def _echoes(
    body: CompletionRequest, prompts: Sequence[list[int]], loaded: LoadedModel
) -> list[str]:
    """What each answer repeats of its prompt."""
    truncated = body.truncate_prompt_tokens is not None

    def echo(given: Prompt, ids: list[int]) -> str:
        if given is None or not body.echo:
            return ""
        as_given = isinstance(given, str) and not truncated
        return str(given) if as_given else loaded.tokenizer.decode(ids)

    each = [echo(given, ids) for given, ids in zip(body.prompt, prompts, strict=True)]
    return [text for text in each for _ in range(body.n or 1)]
