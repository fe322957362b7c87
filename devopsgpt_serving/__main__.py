"""`python -m devopsgpt_serving`: the service under uvicorn, which drains on SIGTERM."""

import gc
import logging
import os
import socket
import sys
from typing import NoReturn

from pydantic import ValidationError

from devopsgpt_serving import logs
from devopsgpt_serving.settings import PREFIX, Settings

log = logging.getLogger("devopsgpt_serving")

# The event loop releases the GIL at each read and write, and gets it back after this long at the
# latest. With Python's 5 ms, some ten such waits would be most of a request's time under load.
SWITCH_INTERVAL_S = 0.0005


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
    from devopsgpt_serving.server import Server

    server = Server(create_app(settings))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What was imported stays. Looking through it at each full collection made reading a list of
    # 300,000 lists 25 times as slow: 529 ms, 21 without.
    gc.collect()
    gc.freeze()
    host, port = listener.getsockname()[:2]
    log.info("listening", extra={"url": f"http://{host}:{port}"})
    server.run(sockets=[listener])


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
