"""`python -m devopsgpt_serving`: the service under uvicorn, which drains on SIGTERM."""

import argparse
import gc
import logging
import os
import socket
import sys
from typing import Any, NoReturn

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from devopsgpt_model.tracking import bypass_proxies
from devopsgpt_serving import logs
from devopsgpt_serving.settings import PREFIX, Settings

log = logging.getLogger("devopsgpt_serving")

# The event loop releases the GIL at each read and write, and gets it back after this long at the
# latest. With Python's 5 ms, some ten such waits would be most of a request's time under load.
SWITCH_INTERVAL_S = 0.0005


def main() -> None:
    """Start the service; exits with 1 and one line where a setting or a place does not allow it."""
    given = options()
    bypass_proxies()
    try:
        settings = Settings(**given)
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


def options() -> dict[str, Any]:
    """The settings that the command line names; they win over the environment."""
    names = "\n".join(
        f"  {variable(name, field):<44} {shown(field.get_default(call_default_factory=True))}"
        for name, field in Settings.model_fields.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m devopsgpt_serving",
        description="Serve the registry's champion over HTTP, with the API's page at /docs.",
        epilog=f"Every setting is a variable of the environment, with its default:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on; beyond loopback it needs keys")
    parser.add_argument("--port", type=int, help="TCP port; 0 takes a free one")
    parser.add_argument("--tracking-uri", help="MLflow server that holds the registry")
    parser.add_argument("--api-keys-file", help="a file with one accepted key a line")
    return {name: value for name, value in vars(parser.parse_args()).items() if value is not None}


def variable(name: str, field: FieldInfo) -> str:
    """The variable that sets a setting."""
    alias = field.validation_alias
    first = alias.choices[0] if isinstance(alias, AliasChoices) else None
    return first if isinstance(first, str) else PREFIX + name.upper()


def shown(value: object) -> str:
    """A default as a person would write it."""
    return "" if value is None or value == () else str(value)


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
