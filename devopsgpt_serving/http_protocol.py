"""HTTP/1.1 over one connection: uvicorn's protocol on h11, with limits that hold before a request
is whole.

h11 bounds headers and speaks HTTP/1.0, where httptools, which is faster, does neither
(docs/decisions.md has the measurement). On top come a limit on the pieces of a body and on the time
that a request takes to arrive, and a place among the server's connections.
"""

import asyncio
import json
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from devopsgpt_serving.connections import Connections
from devopsgpt_serving.errors import ApiError

MAX_HEAD_BYTES = 32_768  # request line and headers; nginx's default, twice Node's

# h11 takes some 15 us for each chunk of a body: a million chunks of one byte would be 15 s
MAX_BODY_PIECES = 4096

# Parsed at a time. One read may bring 256 kB; the limit on headers is looked at between two pieces.
PIECE_BYTES = 8192


class BoundedConnection(h11.Connection):
    """h11's state of one connection; refuses a body in too many pieces."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEAD_BYTES)
        self.refusal = 400
        """Status for what was refused last."""
        self._pieces = 0

    def next_event(self) -> Any:
        """h11's next event. raises: h11.RemoteProtocolError, its status in `refusal`"""
        try:
            event = super().next_event()
            self._count(event)
        except h11.RemoteProtocolError as error:
            self.refusal = error.error_status_hint
            raise
        return event

    def _count(self, event: Any) -> None:
        if isinstance(event, h11.Request):
            self._pieces = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > MAX_BODY_PIECES:
                raise h11.RemoteProtocolError("too many pieces", error_status_hint=413)


class HttpProtocol(H11Protocol):
    """One connection to a client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        admission: Connections,
        receive_s: float,
    ) -> None:
        """receive_s: time for a request to arrive, headers and body"""
        super().__init__(config, server_state, app_state, _loop)
        self.conn: BoundedConnection = BoundedConnection()
        self.admission = admission
        self.receive_s = receive_s
        self._arriving: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, or refuse."""
        super().connection_made(transport)
        if self.admission.admit(self):
            self._look()
        else:
            self._refuse(503, "too_many_connections", "too many connections; try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._cancel_timer()
        self.admission.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, piece by piece."""
        for start in range(0, len(data), PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + PIECE_BYTES])
        self._look()

    def on_response_complete(self) -> None:
        """Be idle, or go on with the next request."""
        super().on_response_complete()
        self._look()

    def send_400_response(self, msg: str) -> None:
        """Refuse what h11 does not accept."""
        status = self.conn.refusal
        code, problem = {
            413: ("body_too_fragmented", f"a body may come in at most {MAX_BODY_PIECES} pieces"),
            431: ("headers_too_large", f"the headers may have at most {MAX_HEAD_BYTES} bytes"),
        }.get(status, ("invalid_http", "the request is not valid HTTP/1.1"))
        self.admission.count(code)
        self._refuse(status, code, problem)

    def drop(self) -> None:
        """Close at once: another connection needs the place."""
        self.transport.abort()

    def _look(self) -> None:
        """Start or stop the clock of a request on its way, and tell whether one is answered."""
        state = self.conn.their_state
        # the state of a connection that waits is the same before its first request and between two
        begun = self.cycle is None or bool(self.conn.trailing_data[0])
        arriving = state is h11.SEND_BODY or (state is h11.IDLE and begun)
        answered = self.cycle is not None and not self.cycle.response_complete and not arriving
        self.admission.mark(self, answered=answered)
        if not arriving or self.transport.is_closing():
            self._cancel_timer()
        elif self._arriving is None:
            self._arriving = self.loop.call_later(self.receive_s, self._too_slow)

    def _cancel_timer(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _too_slow(self) -> None:
        self.admission.count("too_slow")
        if self.cycle is None and not self.conn.trailing_data[0]:
            # opened ahead by a browser; an answer would be taken for that of its next request
            self.transport.close()
            return
        problem = f"the request did not arrive within {self.receive_s:g} s"
        self._refuse(408, "request_timeout", problem)

    def _refuse(self, status: int, code: str, problem: str) -> None:
        """Answer with an error where no answer was begun, and close."""
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(_raw_answer(ApiError(status, code, problem)))
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()


def _raw_answer(error: ApiError) -> bytes:
    """The whole HTTP answer, for where no application runs."""
    body = json.dumps(error.body).encode()
    phrase = STATUS_PHRASES[error.status]
    head = [
        f"HTTP/1.1 {error.status} ".encode() + phrase,
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        b"connection: close",
        *(f"{name.lower()}: {value}".encode() for name, value in error.headers.items()),
    ]
    return b"\r\n".join([*head, b"", body])
