"""The OpenAPI document, with the limits and the keys that this service was started with."""

from typing import Any

from fastapi import FastAPI

from devopsgpt_serving.api.service import Service
from devopsgpt_serving.settings import GUARDED, Settings


def describe_settings(app: FastAPI, service: Service) -> None:
    """Have /openapi.json tell the largest values that are accepted here, and which routes ask for a
    key."""
    settings = service.settings
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_limits(plain(), settings)
            if settings.accepted_keys():
                _add_keys(plain())
        if scheduler := service.engine.current:
            _add_vocabulary(plain(), scheduler.loaded.tokenizer.vocab_size)
        return plain()

    app.openapi = described  # type: ignore[method-assign]


def _add_limits(document: dict[str, Any], settings: Settings) -> None:
    limits = {
        "max_token_len": settings.max_tokens,
        "iterations": settings.max_choices,
        "max_tokens": settings.max_tokens,
        "max_completion_tokens": settings.max_tokens,
        "n": settings.max_choices,
    }
    schemas = document["components"]["schemas"]
    fields = [
        *schemas["GenerateRequest"]["properties"].items(),
        *schemas["CompletionRequest"]["properties"].items(),
        *schemas["ChatRequest"]["properties"].items(),
        *(
            (one["name"], one["schema"])
            for one in document["paths"]["/api/generate"]["post"]["parameters"]
        ),
    ]
    for name, schema in fields:
        if name in limits:
            for form in schema.get("anyOf", [schema]):
                if form.get("type") == "integer":
                    form["maximum"] = limits[name]
    _add_best_of(schemas["CompletionRequest"], settings.max_choices)
    for form in schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"]:
        if form.get("type") == "array" and form["items"].get("type") != "integer":
            form["maxItems"] = settings.max_prompts


def _add_best_of(schema: dict[str, Any], max_choices: int) -> None:
    """best_of is null, or n: which a schema can say only for each number."""
    one: dict[str, Any] = {"properties": {"best_of": {"const": 1}, "n": {"enum": [1, None]}}}
    more = [
        {"properties": {"best_of": {"const": n}, "n": {"const": n}}, "required": ["n"]}
        for n in range(2, max_choices + 1)
    ]
    schema["anyOf"] = [{"properties": {"best_of": {"type": "null"}}}, one, *more]


def _add_vocabulary(document: dict[str, Any], vocab_size: int) -> None:
    schemas = document["components"]["schemas"]
    for form in schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"]:
        _bound_ids(form, vocab_size)
    _bound_ids(schemas["DetokenizeRequest"]["properties"]["tokens"], vocab_size)
    for name in ("CompletionRequest", "ChatRequest"):
        fields = schemas[name]["properties"]
        for form in fields["stop_token_ids"]["anyOf"]:
            _bound_ids(form, vocab_size)
        for form in fields["logit_bias"]["anyOf"]:
            if form["type"] == "object":
                form["propertyNames"] = {"pattern": f"^({numbers_up_to(vocab_size - 1)})$"}


def _bound_ids(schema: dict[str, Any], vocab_size: int) -> None:
    """Bound the token ids in a list, or in lists of a list."""
    items = schema.get("items", {})
    ids = items.get("items", items)
    if ids.get("type") == "integer":
        ids["maximum"] = vocab_size - 1


def numbers_up_to(most: int) -> str:
    """A pattern of the whole numbers 0..most: a schema bounds the names of properties by patterns
    only."""
    digits = str(most)
    shorter = [rf"[1-9][0-9]{{{length - 1}}}" for length in range(1, len(digits))]
    same = []
    for at, digit in enumerate(digits):
        least = 0 if at or len(digits) == 1 else 1
        if int(digit) > least:
            rest = len(digits) - at - 1
            same.append(rf"{digits[:at]}[{least}-{int(digit) - 1}][0-9]{{{rest}}}")
    return "|".join(["0", *shorter, *same, digits])


def _add_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if path.startswith(GUARDED):
            for operation in operations.values():
                operation["security"] = [{"key": []}]
