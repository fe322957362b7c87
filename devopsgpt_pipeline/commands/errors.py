"""How commands tell what went wrong."""

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import click

from devopsgpt_pipeline.settings import read_settings

# in the words of the system, SQLite, and who repeats them
FULL = re.compile(
    r"No space left on device|database or disk is full|Disk quota exceeded|File too large"
    r"|disk I/O error"
)
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_FREE_BYTES = 200_000  # a child that ended on a disk with less often could not write down why


def report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Print errors that a person can act on in one line, without a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except click.ClickException:
            raise
        except Exception as error:
            if reason := _full_disk(error):
                raise click.ClickException(
                    f"the disk is full or a limit of it is reached ({reason}); make room and give "
                    "the same command again: what was done is kept"
                ) from error
            if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error)):
                raise click.ClickException(
                    f"this command needs packages that are not installed ({error.name} is "
                    "missing): "
                    f"pip install 'devopsgpt[{extra}]'"
                ) from error
            if isinstance(error, ValueError | RuntimeError | ConnectionError):
                raise click.ClickException(str(error)) from error
            raise

    return wrapped


# a package that a command imports -> the extra that brings it
EXTRAS = {
    **dict.fromkeys(("fastapi", "fastapi_offline", "h11", "prometheus_client"), "serving"),
    **dict.fromkeys(("uvicorn", "uvloop"), "serving"),
    **dict.fromkeys(("boto3", "dagster_k8s", "dagster_postgres", "kubernetes"), "cluster"),
    **dict.fromkeys(("lm_eval", "accelerate"), "lm-eval"),
    "gguf": "gguf",
}


def _extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra that brings a missing package; None for a module of our own."""
    package = (error.name or "").partition(".")[0]
    return None if package.startswith("devopsgpt") else EXTRAS.get(package, "pipeline")


def _full_disk(error: Exception) -> str:
    """What could not be written, in one line; empty for an error of another kind."""
    for each in _causes(error):
        if FULL.search(str(each)) or getattr(each, "errno", None) in FULL_ERRORS:
            line = next((one for one in str(each).splitlines() if FULL.search(one)), str(each))
            return line.strip()[:300]
    try:
        home = read_settings().home
    except ValueError:  # which is then the error to tell
        return ""
    free = shutil.disk_usage(home).free if home.is_dir() else LEAST_FREE_BYTES
    if free < LEAST_FREE_BYTES:
        return f"{home} has {free:,} bytes left: {str(error).partition(chr(10))[0][:200]}"
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
