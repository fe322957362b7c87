"""/v1/chat/completions: a conversation, written out by the operator's template, continued."""

from typing import Annotated

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response

from devopsgpt_serving.api.error_answers import responses
from devopsgpt_serving.api.openai.chat_objects import (
    ChatAnswer,
    ChatChoice,
    ChatEvents,
    ChatMessage,
    chat_logprobs,
)
from devopsgpt_serving.api.openai.chat_request import EXAMPLES, ChatRequest
from devopsgpt_serving.api.openai.chat_template import ChatTemplate, Rendered
from devopsgpt_serving.api.openai.completion_objects import Style, answer_header
from devopsgpt_serving.api.openai.ignored_fields import ignore_unknown
from devopsgpt_serving.api.openai.models import check_model
from devopsgpt_serving.api.pending_answers import PendingAnswers
from devopsgpt_serving.api.prompts import Reading, encode
from devopsgpt_serving.api.schemas import check_limits
from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.api.sse import STREAMED, EventStream
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.settings import PREFIX

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Here = Annotated[Service, Depends(service_of)]


def chat_template_of(request: Request) -> ChatTemplate:
    """The operator's template. raises: ApiError 400 where none is set"""
    template: ChatTemplate | None = request.app.state.chat_template
    if template is None:
        raise ApiError(
            400,
            "no_chat_template",
            "this is a base model, which continues text: use /v1/completions, or have the operator "
            f"set {PREFIX}CHAT_TEMPLATE, to a Jinja template or to plain",
        )
    return template


@router.post(
    "/chat/completions",
    summary="Continue a conversation",
    response_model=ChatAnswer,
    responses=responses(400, 401, 404, 413, 422, 429, 500, 503, 504) | {200: STREAMED},
)
async def chat(
    request: Request,
    service: Here,
    template: Annotated[ChatTemplate, Depends(chat_template_of)],
    body: Annotated[ChatRequest, Body(openapi_examples=EXAMPLES)],
) -> Response | ChatAnswer:
    """The assistant's next turn. It works where the operator set a chat template; the model was
    trained on prose and continues it."""
    check_model(body.model, service)
    ignore_unknown(request, service, body.model_extra or {})
    scheduler = service.scheduler()
    loaded = scheduler.loaded
    rendered = template.render(
        [message.facts for message in body.messages], body.add_generation_prompt
    )
    service.log_prompt(request, rendered.text)
    check_limits(service.settings, body.most_tokens or 1, "max_tokens", body.n or 1, "n")
    reading = Reading(
        parse_special=service.parses_special(body.parse_special),
        truncate=body.truncate_prompt_tokens,
    )
    prompts = await encode([rendered.text or None], loaded, reading)
    room = min(loaded.block_size - len(prompts[0]), service.settings.max_tokens)
    sampling = _sampling(body, body.most_tokens or room, loaded, rendered)
    request.state.version = loaded.version.number
    wanted = [(prompts[0], sampling.choice(index)) for index in range(body.n or 1)]
    pending = PendingAnswers(request, service, scheduler, wanted)
    style = Style(loaded.tokenizer, body.scored is not None, bool(body.return_tokens_as_token_ids))
    head = answer_header(request.state.request_id, body.model, loaded.version.number, "chatcmpl")
    if body.stream:
        return EventStream(
            pending, ChatEvents(style, head, body.n or 1, body.includes_usage), prompts
        )
    answers = await pending.whole(request)
    choices = [
        ChatChoice(
            index=index,
            message=ChatMessage(content=answer.text),
            logprobs=chat_logprobs(style, answer.scored),
            finish_reason=answer.finish_reason,
        )
        for index, answer in enumerate(answers)
    ]
    return ChatAnswer(**head, choices=choices, usage=pending.usage(prompts))


def _sampling(
    body: ChatRequest, max_tokens: int, loaded: LoadedModel, rendered: Rendered
) -> Sampling:
    """The request's own stop strings, and the template's."""
    asked = body.openai_sampling(max_tokens, loaded, logprobs=body.scored)
    return asked.with_stop(rendered.stop)
