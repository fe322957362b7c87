"""Compares the API key of a request. Stands behind CORS: a browser's preflight carries no key."""

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from devopsgpt_serving.api.error_answers import answer
from devopsgpt_serving.errors import ApiError


class ApiKeyMiddleware:
    """Lets a request to a guarded route pass with one of the keys; without keys, every request.

    Routes and the layers around them see in state.known whether the caller may learn what is
    served: who sent a key, or anybody where no keys are set.
    """

    def __init__(self, app: ASGIApp, accepted: list[str], guarded: tuple[str, ...]) -> None:
        """guarded: beginnings of paths that need a key"""
        self.app = app
        self.accepted = [key.encode() for key in accepted]
        self.guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer 401."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        known = self._is_known(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state["known"] = known
        if known or not scope["path"].startswith(self.guarded):
            await self.app(scope, receive, send)
            return
        error = ApiError(
            401,
            "invalid_api_key",
            "a valid key is needed in the header `Authorization: Bearer <key>`",
            headers={"WWW-Authenticate": "Bearer"},
        )
        state["error_code"] = error.code
        await answer(error)(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        if not self.accepted:
            return True
        given = headers.get("authorization", "").encode("latin-1")  # the bytes as they came
        scheme, _, key = given.partition(b" ")
        # every key, whichever one fits
        fits = sum(hmac.compare_digest(key.strip(), one) for one in self.accepted)
        return scheme.lower() == b"bearer" and fits > 0
