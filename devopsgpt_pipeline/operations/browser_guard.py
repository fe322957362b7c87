"""Keeps other people's web pages from Dagster's webserver, which itself takes every request.

A page that a user visits can send requests to any server that the user's browser reaches, and
Dagster executes GraphQL mutations that come as text/plain, by GET, or over a websocket. Browsers
say where a request comes from; what is foreign is refused here. Programs send neither header and
pass. Knows nothing of Dagster but that it executes what stands in the address of /graphql.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OURS = ("same-origin", "none")  # none: typed by the user, or a bookmark
POLICY_VIOLATION = 1008  # of websockets


class BrowserGuard:
    """An ASGI middleware that refuses what a foreign page sent, and names that nobody allowed."""

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        """names: host names, beside localhost, under which the server is reached"""
        self.app = app
        self.names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request or websocket on, or answer 403."""
        refusal = None
        if scope["type"] in ("http", "websocket"):
            refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # closed before it is accepted: the handshake gets a 403
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal})
        else:
            await PlainTextResponse(f"{refusal}\n", status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> str | None:
        """Why a request is refused, or None. A header that is sent twice counts each time."""
        hosts = headers.getlist("host")
        if foreign := [host for host in hosts if not self._is_our_name(host)]:
            # a page's own name may be made to point here: then Origin and Host agree, and both lie
            return (
                f"the host name must be localhost, an address or one of DEVOPSGPT_DAGSTER_HOSTS, "
                f"got {foreign[0]!r}"
            )
        for origin in headers.getlist("origin"):
            # Without the scheme: a proxy may have taken TLS off. One port serves one scheme.
            if urlsplit(origin).netloc not in hosts:
                return f"the header Origin must name this server, got {origin!r}"
        for site in headers.getlist("sec-fetch-site"):
            if site not in OURS and not _is_a_link(scope, headers):
                return f"the request must come from this server's own pages, got one that is {site}"
        if _executes_its_address(scope, headers):
            return "a GraphQL query must be sent by POST, got one in the address"
        return None

    def _is_our_name(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:  # a malformed address
            return False
        if name == "localhost" or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _is_a_link(scope: Scope, headers: Headers) -> bool:
    """A user who follows a link to a page of ours. Not one that is shown inside another page, where
    clicks can be stolen."""
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _executes_its_address(scope: Scope, headers: Headers) -> bool:
    """`<img src=".../graphql?query=mutation...">`: a browser that sends no Sec-Fetch-Site, as for a
    server without TLS at another machine, would not tell that it is foreign."""
    return (
        scope["type"] == "http"
        and bool(scope["query_string"])
        and scope["path"].rstrip("/").endswith("/graphql")
        and scope["method"] in ("GET", "HEAD")
        and "text/html" not in headers.get("accept", "")  # GraphiQL's page: nothing is executed
    )
