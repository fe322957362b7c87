"""The OpenAPI document, with the limits that this service was started with."""

from typing import Any

from fastapi import FastAPI

from devopsgpt_serving.settings import Settings


def describe_limits(app: FastAPI, settings: Settings) -> None:
    """Have /openapi.json tell the largest values that are accepted here."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_limits(plain(), settings)
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
        *((one["name"], one["schema"]) for one in document["paths"]["/api/generate"]["post"]["parameters"]),
    ]
    for name, schema in fields:
        if name in limits:
            for form in schema.get("anyOf", [schema]):
                if form.get("type") == "integer":
                    form["maximum"] = limits[name]
