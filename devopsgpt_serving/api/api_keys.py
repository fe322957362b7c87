"""Compares the API key of a request. Stands behind CORS: a browser's preflight carries no key."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from devopsgpt_serving.api.error_answers import answer
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.settings import GUARDED


class ApiKeyMiddleware:
    """Lets a request to a guarded route pass with one of the keys; without keys, every request."""

    def __init__(self, app: ASGIApp, accepted: list[str]) -> None:
        self.app = app
        self.accepted = [key.encode() for key in accepted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer 401."""
        if scope["type"] != "http" or self._may_pass(scope["path"], Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        error = ApiError(
            401,
            "invalid_api_key",
            "a valid key is needed in the header `Authorization: Bearer <key>`",
            headers={"WWW-Authenticate": "Bearer"},
        )
        scope.setdefault("state", {})["error_code"] = error.code
        await answer(error)(scope, receive, send)

    def _may_pass(self, path: str, headers: Headers) -> bool:
        if not self.accepted or not path.startswith(GUARDED):
            return True
        given = headers.get("authorization", "").encode("latin-1")  # the bytes as they came
        scheme, _, key = given.partition(b" ")
        # every key, whichever one fits
        fits = sum(hmac.compare_digest(key.strip(), one) for one in self.accepted)
        return scheme.lower() == b"bearer" and fits > 0
