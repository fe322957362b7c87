"""How commands tell what went wrong."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print errors that a person can act on in one line, without a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, RuntimeError, ConnectionError) as error:
            raise click.ClickException(str(error)) from error

    return wrapped
