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
        "n": settings.max_choices,
    }
    schemas = document["components"]["schemas"]
    fields = [
        *schemas["GenerateRequest"]["properties"].items(),
        *schemas["CompletionRequest"]["properties"].items(),
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
    for form in document["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"][
        "anyOf"
    ]:
        ids = form.get("items", {}).get("items", form.get("items", {}))
        if ids.get("type") == "integer":
            ids["maximum"] = vocab_size - 1


def _add_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        if path.startswith(GUARDED):
            for operation in operations.values():
                operation["security"] = [{"key": []}]
