"""OpenAI's routes: /v1/models and /v1/completions, so that its clients work unchanged."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError

from devopsgpt_serving.api.completion_objects import (
    CompletionAnswer,
    Style,
    answer_header,
    choice_of,
)
from devopsgpt_serving.api.completion_sse import CompletionStream
from devopsgpt_serving.api.error_answers import responses
from devopsgpt_serving.api.pending_answers import PendingAnswers
from devopsgpt_serving.api.prompts import Prompt, Prompts, encode
from devopsgpt_serving.api.schemas import (
    Fields,
    SamplingFields,
    at_most,
    check_limits,
    numbers_only,
)
from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.version import Version

router = APIRouter(prefix="/v1", tags=["OpenAI"])
Here = Annotated[Service, Depends(service_of)]

DEFAULT_MAX_TOKENS = 16  # OpenAI's
DEFAULT_TEMPERATURE = 1.0  # OpenAI's

MAX_BIASES = 1024
Zero = Annotated[Literal[0], BeforeValidator(numbers_only)]


class StreamOptions(Fields):
    """What a stream tells besides text."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool = False


OPTIONS_NAMED: dict[str, Any] = {
    "properties": {"stream_options": {"type": "object"}},
    "required": ["stream_options"],
}
STREAM_ASKED: dict[str, Any] = {"properties": {"stream": {"const": True}}, "required": ["stream"]}


class CompletionRequest(SamplingFields):
    """OpenAI's fields; top_k and repetition_penalty come on top. What would have an effect
    elsewhere is refused."""

    model_config = ConfigDict(json_schema_extra={"if": OPTIONS_NAMED, "then": STREAM_ASKED})

    model: str = Field(description="The model's id, as /v1/models lists it.")
    prompt: Prompts = Field(
        default=[None],
        description="A text, token ids, or a list of either; without one, a new document begins.",
        json_schema_extra={"default": None},
    )
    max_tokens: int | None = Field(
        default=None,
        ge=0,
        description=f"Most tokens of each answer, {DEFAULT_MAX_TOKENS} if unset.",
    )
    n: int | None = Field(default=None, ge=1, description="How many answers to each prompt.")
    best_of: int | None = Field(
        default=None, ge=1, description="As many as n: no answer is made to be left out."
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Score tokens, with this many likeliest beside each."
    )
    echo: StrictBool | None = Field(
        default=None, description="Whether the answer repeats the prompt."
    )
    stream: StrictBool | None = Field(
        default=None, description="Whether the answer comes piece by piece."
    )
    stream_options: StreamOptions | None = Field(
        default=None, description="Only where stream is true."
    )
    suffix: Literal[""] | None = Field(
        default=None, description="Nothing: no text can be inserted before another."
    )
    logit_bias: Annotated[dict[str, Zero], at_most(MAX_BIASES)] | None = Field(
        default=None, description="Zeros: no token can be favoured."
    )
    user: str | None = Field(default=None, description="Taken and not used.")

    @field_validator("suffix", "logit_bias", mode="wrap")
    @classmethod
    def _refuse_an_effect(
        cls, value: object, check: ValidatorFunctionWrapHandler, field: ValidationInfo
    ) -> object:
        try:
            return check(value)
        except ValidationError:
            raise _only(
                'null or ""' if field.field_name == "suffix" else "null, {} or zeros"
            ) from None

    @field_validator("best_of")
    @classmethod
    def _refuse_more_than_are_told(cls, best_of: int | None, others: ValidationInfo) -> int | None:
        if best_of is not None and "n" in others.data and best_of != (n := others.data["n"] or 1):
            raise _only(f"null or as many as n, {n},")
        return best_of

    @field_validator("stream_options")
    @classmethod
    def _refuse_options_of_no_stream(
        cls, options: StreamOptions | None, others: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and "stream" in others.data and not others.data["stream"]:
            raise PydanticCustomError(
                "needs_stream", "Only taken where stream is true; leave it out"
            )
        return options


def _only(possible: str) -> PydanticCustomError:
    """What is told of a field of OpenAI's that this service takes where it changes nothing."""
    return PydanticCustomError(
        "extra_forbidden", "Only {possible} is supported; leave it out", {"possible": possible}
    )


class ListedModel(BaseModel):
    """A model that answers. version and tags are ours, as the registry has them."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "devopsgpt"
    version: str
    tags: dict[str, str]


class ModelCard(ListedModel):
    """A model with what its lineage.json tells of its making; empty where it has none."""

    lineage: dict[str, Any]


class ModelList(BaseModel):
    """Every model that answers: one, or none yet."""

    object: Literal["list"] = "list"
    data: list[ListedModel]


EXAMPLES = {
    "plain": {
        "summary": "Go on from a prompt",
        "value": {"model": "devopsgpt", "prompt": "An error budget is", "max_tokens": 40},
    },
    "streamed": {
        "summary": "The same piece by piece, with token counts at the end",
        "value": {
            "model": "devopsgpt",
            "prompt": "An error budget is",
            "max_tokens": 40,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "scored": {
        "summary": "Score a text: no new token, log-probabilities of the prompt's",
        "value": {
            "model": "devopsgpt",
            "prompt": "Hope is not a plan.",
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
        },
    },
}


STREAMED: dict[str, Any] = {
    "description": "The answer; where `stream` is true, a chunk of the same form in each event, "
    "and [DONE].",
    "content": {
        "text/event-stream": {
            "schema": {"type": "object", "properties": {"data": {"type": "string"}}}
        }
    },
}


@router.get("/models", responses=responses(401))
async def list_models(service: Here) -> ModelList:
    """The model that is served."""
    served = service.follower.state.served
    return ModelList(data=[ListedModel(**_facts(served))] if served else [])


@router.get("/models/{model}", responses=responses(401, 404))
async def get_model(model: str, service: Here) -> ModelCard:
    """One model, with its version, tags and lineage: chapters and hashes, settings, initial
    weights, code and runs."""
    state = service.follower.state
    served = state.served
    if served is None or model != served.name:
        raise _unknown_model(model, service)
    return ModelCard(**_facts(served), lineage=state.lineage)


@router.post(
    "/completions",
    response_model=CompletionAnswer,
    responses=responses(400, 401, 404, 413, 422, 429, 500, 503, 504) | {200: STREAMED},
)
async def complete(
    request: Request,
    service: Here,
    body: Annotated[CompletionRequest, Body(openapi_examples=EXAMPLES)],  # type: ignore[arg-type]
) -> Response | CompletionAnswer:
    """Text that follows each prompt; streamed as server-sent events where `stream` is true."""
    if body.model != service.settings.model_name:
        raise _unknown_model(body.model, service)
    scheduler = service.scheduler()
    default = min(DEFAULT_MAX_TOKENS, service.settings.max_tokens)
    max_tokens = default if body.max_tokens is None else body.max_tokens
    n = body.n or 1
    texts = body.prompt
    service.log_prompt(request, texts)
    check_limits(service.settings, max_tokens, "max_tokens", n, "n", len(texts))
    echo = bool(body.echo)
    prompts = await encode(texts, scheduler.loaded, 1 if max_tokens else 0)
    sampling = body.sampling(
        max_tokens,
        DEFAULT_TEMPERATURE,
        logprobs=body.logprobs,
        echo_logprobs=echo and body.logprobs is not None,
    )
    request.state.version = scheduler.loaded.version.number
    wanted = [(prompt, sampling.choice(index)) for prompt in prompts for index in range(n)]
    pending = PendingAnswers(request, service, scheduler, wanted)
    style = Style(scheduler.loaded.tokenizer, body.logprobs is not None)
    head = answer_header(request.state.request_id, body.model, scheduler.loaded.version.number)
    echoes = [
        _echo(text, prompt, scheduler.loaded) if echo else ""
        for text, prompt in zip(texts, prompts, strict=True)
    ]
    echoes = [text for text in echoes for _ in range(n)]
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return CompletionStream(pending, style, head, echoes, prompts, usage)
    answers = await pending.whole(request)
    choices = [
        choice_of(
            style,
            index,
            echoes[index] + answer.text,
            answer.scored,
            len(echoes[index]),
            answer.finish_reason,
        )
        for index, answer in enumerate(answers)
    ]
    return CompletionAnswer(**head, choices=choices, usage=pending.usage(prompts))


def _echo(text: Prompt, ids: list[int], loaded: LoadedModel) -> str:
    if text is None:
        return ""
    return text if isinstance(text, str) else loaded.tokenizer.decode(ids)


def _facts(served: Version) -> dict[str, Any]:
    return {
        "id": served.name,
        "created": served.created,
        "version": served.number,
        "tags": served.tags,
    }


def _unknown_model(model: str, service: Service) -> ApiError:
    name = service.settings.model_name
    return ApiError(
        404,
        "model_not_found",
        f"no model {model[:100]!r} is served here; ask for {name!r}",
        "model",
    )
