"""`python -m devopsgpt_serving`: the service under uvicorn, which drains on SIGTERM."""

import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import uvicorn
from pydantic import ValidationError

from devopsgpt_serving import logs
from devopsgpt_serving.settings import PREFIX, Settings

if TYPE_CHECKING:
    from devopsgpt_serving.api.service import Service

log = logging.getLogger("devopsgpt_serving")

# The event loop releases the GIL at each read and write, and gets it back after this long at the
# latest. With Python's 5 ms, some ten such waits would be most of a request's time under load.
SWITCH_INTERVAL_S = 0.0005

# Longer than the 60 s of load balancers and the 5 s of httpx (and so of OpenAI's client): a request
# sent over an idle connection in the moment that it is closed is lost. uvicorn's own 5 s lost one
# of 27,000 requests under load.
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """uvicorn that is not ready for a while before it refuses connections."""

    def __init__(self, config: uvicorn.Config, service: "Service") -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: not ready, then drain. Ctrl-C skips the wait; a second one skips the
        drain."""
        delay = self.service.settings.shutdown_delay_s if sig == signal.SIGTERM else 0.0
        if self.service.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self.service.draining = True
        timer = threading.Timer(delay, self._stop_accepting)
        timer.daemon = True
        timer.start()

    def _stop_accepting(self) -> None:
        self.should_exit = True


def main() -> None:
    """Start the service; exits with 1 and one line where a setting or a place does not allow it."""
    try:
        settings = Settings()
        logs.configure(settings.log_level)
        with bind(settings.host, settings.port) as listener:
            serve(settings, listener)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        name = where if where.isupper() or not where else PREFIX + where.upper()
        sys.exit(f"devopsgpt_serving: {name + ': ' if name else ''}{first['msg']}")
    except (ValueError, OSError) as error:
        sys.exit(f"devopsgpt_serving: {error}")
    leave()


def leave() -> NoReturn:
    """End the process now, with 0. Python would first wait for MLflow's threads, whose download may
    take minutes.

    What is under way is lost: half a download, which the next start clears away. Answers were
    waited for before.
    """
    logging.shutdown()
    os._exit(0)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Answer on a bound socket until a signal comes."""
    # torch takes seconds; a wrong setting is told before
    from devopsgpt_serving.app import create_app

    app = create_app(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_s,
    )
    host, port = listener.getsockname()[:2]
    log.info("listening", extra={"url": f"http://{host}:{port}"})
    Server(config, app.state.service).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. raises: OSError that names the setting, where the port is taken or not to
    be had"""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"cannot listen on {host}:{port} ({error.strerror}); stop what listens there, or set "
            f"{PREFIX}PORT or {PREFIX}HOST"
        ) from error
    return listener


if __name__ == "__main__":
    main()
