"""vLLM's /tokenize and /detokenize: a text's token ids, and back."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from devopsgpt_serving.api.error_answers import responses
from devopsgpt_serving.api.openai.chat import chat_template_of
from devopsgpt_serving.api.openai.chat_request import MAX_MESSAGES, Message
from devopsgpt_serving.api.openai.models import check_model
from devopsgpt_serving.api.openai.sampling_fields import TokenId
from devopsgpt_serving.api.prompts import check_length, encode_text
from devopsgpt_serving.api.schemas import Fields, Text, at_most
from devopsgpt_serving.api.service import Service, service_of
from devopsgpt_serving.engine.detokenizer import token_text
from devopsgpt_serving.errors import ApiError

router = APIRouter(tags=["tokens"])
Here = Annotated[Service, Depends(service_of)]

MAX_DETOKENIZED = 100_000


ONE_OF_BOTH: dict[str, Any] = {
    "oneOf": [
        {
            "properties": {"prompt": {"type": "string"}, "messages": {"type": "null"}},
            "required": ["prompt"],
        },
        {
            "properties": {"prompt": {"type": "null"}, "messages": {"type": "array"}},
            "required": ["messages"],
        },
    ]
}


class TokenizeRequest(Fields):
    """A text, or a conversation."""

    model_config = ConfigDict(extra="ignore", json_schema_extra=ONE_OF_BOTH)

    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], at_most(MAX_MESSAGES), Field(min_length=1)] | None = None
    add_generation_prompt: StrictBool = True
    return_token_strs: StrictBool | None = None
    parse_special: StrictBool | None = Field(
        default=None, description="Whether <|endoftext|> is the special token."
    )


class Tokenized(BaseModel):
    """Token ids, and how many a prompt and its answer may have together."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Fields):
    """Token ids."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    tokens: Annotated[list[TokenId], at_most(MAX_DETOKENIZED)]


class Detokenized(BaseModel):
    """The ids' text."""

    prompt: str


TOKENIZE_EXAMPLES: dict[str, Any] = {
    "plain": {"summary": "Count a text's tokens", "value": {"prompt": "An error budget is"}}
}
DETOKENIZE_EXAMPLES: dict[str, Any] = {
    "plain": {"summary": "The text of three ids", "value": {"tokens": [72, 105, 33]}}
}


@router.post(
    "/tokenize", summary="Tokens of a text", responses=responses(400, 401, 404, 413, 422, 503)
)
async def tokenize(
    request: Request,
    service: Here,
    body: Annotated[TokenizeRequest, Body(openapi_examples=TOKENIZE_EXAMPLES)],
) -> Tokenized:
    """The ids that a prompt has on /v1, or that a conversation has with the operator's template."""
    _check_model(body.model, service)
    if (body.prompt is None) == (body.messages is None):
        message = "prompt: a prompt or messages must be given, and not both"
        raise ApiError(422, "invalid_value", message, "prompt")
    text = body.prompt or ""
    if body.messages is not None:
        facts = [message.facts for message in body.messages]
        text = chat_template_of(request).render(facts, body.add_generation_prompt).text
    loaded = service.scheduler().loaded
    special = service.parses_special(body.parse_special)
    check_length(text)
    ids = await asyncio.to_thread(encode_text, text, loaded.tokenizer, special)
    named = bool(body.return_token_strs)
    return Tokenized(
        count=len(ids),
        max_model_len=loaded.block_size,
        tokens=ids,
        token_strs=[token_text(loaded.tokenizer, token) for token in ids] if named else None,
    )


@router.post(
    "/detokenize", summary="Text of tokens", responses=responses(400, 401, 404, 413, 422, 503)
)
async def detokenize(
    service: Here, body: Annotated[DetokenizeRequest, Body(openapi_examples=DETOKENIZE_EXAMPLES)]
) -> Detokenized:
    """The text of token ids; bytes that form no character become U+FFFD."""
    _check_model(body.model, service)
    tokenizer = service.scheduler().loaded.tokenizer
    if outside := [token for token in body.tokens if token >= tokenizer.vocab_size]:
        message = f"tokens: token ids must be 0..{tokenizer.vocab_size - 1}, got {outside[0]}"
        raise ApiError(422, "invalid_value", message, "tokens")
    return Detokenized(prompt=tokenizer.decode(body.tokens))


def _check_model(model: str | None, service: Service) -> None:
    if model is not None:
        check_model(model, service)
