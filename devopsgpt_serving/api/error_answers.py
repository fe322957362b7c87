"""Errors over HTTP, all in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from devopsgpt_serving.errors import (
    RETRY_AFTER_S,
    ApiError,
    Cancelled,
    DeadlinePassed,
    EngineFailure,
    QueueFull,
    Stopping,
)

CLIENT_GONE = 499  # nginx's code for a caller that hung up; only the log sees it

CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ErrorDetail(BaseModel):
    """What went wrong, which field it concerns, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


def answer(error: ApiError) -> JSONResponse:
    """The error over HTTP."""
    return JSONResponse(error.body, error.status, error.headers)


def from_engine(error: Exception, retry_after_s: int = RETRY_AFTER_S) -> ApiError:
    """What a failure of the engine means to the caller. retry_after_s: when a full queue will have
    been worked off"""
    match error:
        case QueueFull():
            headers = {"Retry-After": str(retry_after_s)}
            return ApiError(429, "queue_full", f"too many requests: {error}", headers=headers)
        case Stopping():
            return ApiError(
                503,
                "draining",
                f"{error}; send the request to another replica, or again in a moment",
            )
        case DeadlinePassed():
            return ApiError(504, "deadline_exceeded", str(error))
        case Cancelled():
            return ApiError(CLIENT_GONE, "client_closed_request", "the caller hung up")
        case EngineFailure():
            return ApiError(500, "engine_failure", str(error))
    return ApiError(
        500,
        "internal_error",
        "something unexpected went wrong; the log has it under this request's id",
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for the OpenAPI document."""
    meanings = {
        400: "The prompt does not fit into the model's context",
        401: "No key, or a wrong one",
        404: "No such model",
        413: "The body is too large",
        422: "A field is missing, unknown or out of range",
        429: "The queue is full; Retry-After says when to come back",
        500: "The model failed",
        503: "No model yet, or the service is stopping",
        504: "Not finished in time",
    }
    return {status: {"model": ErrorAnswer, "description": meanings[status]} for status in statuses}


def install_handlers(app: FastAPI) -> None:
    """Give FastAPI's own errors the common form."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)


def _told(request: Request, error: ApiError) -> JSONResponse:
    request.state.error_code = error.code  # the request middleware counts it
    return answer(error)


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    return _told(request, error if isinstance(error, ApiError) else from_engine(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    errors = (
        [dict(one) for one in error.errors()] if isinstance(error, RequestValidationError) else [{}]
    )
    return _told(request, invalid(errors, request.headers.get("content-type")))


def invalid(
    errors: list[dict[str, Any]], content_type: str | None = "application/json"
) -> ApiError:
    """A 422 from pydantic's complaints about the first field that it complains about."""
    if errors[0].get("loc") == ("body",) and "json" not in (content_type or ""):
        message = (
            "the body must be JSON with the header Content-Type: application/json, got "
            f"{content_type}"
        )
        return ApiError(422, "invalid_value", message)
    param = _field(errors[0])
    same = [error for error in errors if _field(error) == param]
    # where a field may take several forms, the form that nearly fits says more than those of
    # another type
    error = next((one for one in same if not str(one.get("type")).endswith("_type")), same[0])
    kind, what, got = error.get("type"), error.get("msg", "invalid request"), error.get("input")
    if param == "prompt" and kind in ("string_too_short", "too_short"):
        message = (
            "the prompt must have at least one character, got none; leave it out to begin a new "
            "document"
        )
        return ApiError(422, "empty_prompt", message, param)
    if kind == "unknown_field":
        return ApiError(422, "unknown_field", what, param)
    shown = f", got {got!r}" if isinstance(got, int | float | bool) else ""
    codes = {"extra_forbidden": "unknown_field", "unsupported": "unsupported_field"}
    code = codes.get(str(kind), "invalid_value")
    return ApiError(422, code, f"{param}: {what}{shown}" if param else what, param)


def _field(error: dict[str, Any]) -> str | None:
    """The field that a complaint is about; None for the body as a whole."""
    if error.get("type") == "unknown_field":
        return str(error["ctx"]["field"])
    where = [str(part) for part in error.get("loc", ()) if part not in ("body", "query", "path")]
    return where[0] if where and error.get("type") != "json_invalid" else None


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(error.detail) if isinstance(error, HTTPException) else "unexpected"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 404 and detail == "Not Found":
        detail = _no_route(request)
    return _told(
        request, ApiError(status, CODES.get(status, "http_error"), detail, headers=headers)
    )


def _no_route(request: Request) -> str:
    """What is told of a path that no route has."""
    asked = f"there is no {request.method} {request.url.path[:100]!r} here"
    if not request.url.path.startswith("/v1/"):
        return f"{asked}; /docs lists what there is"
    document = request.app.openapi()["paths"]
    routes = [
        f"{method.upper()} {path}"
        for path, operations in document.items()
        for method in operations
        if path.startswith("/v1/")
    ]
    return f"{asked}; there are {', '.join(sorted(routes))}"
