"""Around every request: its id, the version that answered, a log line, counters, a trace's span.

Pure ASGI, so that streams pass through as they are.
"""

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from devopsgpt_serving.api.error_answers import answer, from_engine
from devopsgpt_serving.api.service import Service
from devopsgpt_serving.errors import ApiError

log = logging.getLogger("devopsgpt_serving.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_SLASHES = re.compile("//+")
NO_VERSION = "none"
# for what is no page: a browser that shows it runs nothing, and frames it nowhere
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
# asked for all the time: logged as debug, not traced
QUIET = ("/api/healthz", "/api/readyz", "/health", "/ping", "/load", "/metrics")


class RequestMiddleware:
    """The outermost layer of the service: surrounds every request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # `https://host/v1/` + `/completions` is a common slip, and so is a slash at the end. A
        # redirect would name whatever host the request names.
        scope["path"] = _SLASHES.sub("/", scope["path"]).rstrip("/") or "/"
        if scope["method"] == "HEAD":
            # routes answer it as GET; the server, which keeps the other scope, sends no body
            scope = {**scope, "method": "GET", "head": True}
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["request_id"] = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        exchange = _Exchange(self.service, scope, send)
        try:
            await self.app(
                scope, _limited(receive, self.service.settings.max_body_bytes), exchange.send
            )
        except Exception as error:
            if not isinstance(error, ApiError):
                log.exception("a request failed", extra={"request_id": state["request_id"]})
            told = error if isinstance(error, ApiError) else from_engine(error)
            state["error_code"] = told.code
            if exchange.status is not None:
                raise
            await answer(told)(scope, receive, exchange.send)
        finally:
            exchange.close()


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """The body as it comes in. raises: HTTPException 413 once it is larger than max_bytes"""
    received = 0

    async def receive_some() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise HTTPException(
                413, f"the body may have at most {max_bytes} bytes, got {received} or more"
            )
        return message

    return receive_some


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: Service, scope: Scope, send: Send) -> None:
        self.service = service
        self.scope = scope
        self._send = send
        self.status: int | None = None
        self.began = time.monotonic()
        self.span = None if scope["path"] in QUIET else service.tracing.begin(scope)
        scope["state"]["span"] = self.span

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on, with our headers on its first."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.scope["state"]["request_id"]
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Content-Security-Policy", NO_PAGE)
            if ignored := self.scope["state"].get("ignored_fields"):
                headers["X-Ignored-Fields"] = ignored
            if self.scope["state"].get("known"):
                headers["X-Model-Version"] = self._version()
        await self._send(message)

    def close(self) -> None:
        """Count the request, log it, end its span."""
        route = getattr(self.scope.get("route"), "path", "unknown")
        facts: dict[str, Any] = {
            "request_id": self.scope["state"]["request_id"],
            "method": "HEAD" if "head" in self.scope else self.scope["method"],
            "status": self.status or 500,
            "version": self._version(),
        }
        code = self.scope["state"].get("error_code")
        self.service.metrics.http_requests(route, str(facts["status"])).inc()
        if code:
            self.service.metrics.rejections(code).inc()
            facts["error_code"] = code
            # sent before the error came: this count is all that tells of it
            if facts["status"] < 400:
                self.service.metrics.failed_streams(code).inc()
        level = logging.DEBUG if self.scope["path"] in QUIET else logging.INFO
        path, seconds = self.scope["path"], round(time.monotonic() - self.began, 4)
        log.log(level, "request", extra=facts | {"path": path, "seconds": seconds})
        self.service.tracing.end(
            self.span,
            facts | {"route": route, "model": self.service.settings.model_name},
            self.scope["state"].get("sequences", []),
        )

    def _version(self) -> str:
        scheduler = self.service.engine.current
        current = scheduler.loaded.version.number if scheduler else NO_VERSION
        return str(self.scope["state"].get("version", current))
