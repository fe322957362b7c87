"""One file of the Hugging Face hub onto the disk.

A download that breaks, or is killed, goes on where it was; a file has its name only once its hash
was checked. HF_ENDPOINT is honoured.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock
from huggingface_hub import get_hf_file_metadata

# hf_hub_download forgets a partial file with its process
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from devopsgpt_model.atomic import file_sha256
from devopsgpt_model.threads import repeat_every

LOOKUP_TIMEOUT_S = 10.0
TELL_EVERY_S = 5.0  # where no terminal shows a bar

Say = Callable[[str], None]
"""Who hears of a download that takes long."""


def say_on_stderr(text: str) -> None:
    """A line for who reads a log."""
    print(text, file=sys.stderr, flush=True)


class HubUnavailable(ConnectionError):
    """A hub that does not answer."""


def fetch_file(
    url: str, path: Path, origin: str, sha256: str | None = None, say: Say = say_on_stderr
) -> None:
    """Fetch a file unless it is there. origin: its repository, for messages; sha256: what it must
    be, else what the hub states

    raises: HubUnavailable where the hub does not answer; ValueError for another hash
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / ".lock"):
        if not path.exists():
            _fetch(url, path, origin, sha256, say)


def _fetch(url: str, path: Path, origin: str, expected: str | None, say: Say) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        stated = _download(url, path.name, partial, say)
    except Exception as error:  # the hub's client raises its HTTP library's errors beside its own
        raise HubUnavailable(
            f"{path.name} of {origin} could not be fetched ({in_short(error)})"
        ) from error
    expected = expected or stated
    found = _hash_like(expected, partial)
    if found != expected:
        partial.unlink()
        raise ValueError(
            f"{path.name} of {origin} should have the hash {expected} and has {found}; "
            "it was removed, and the next try fetches it anew"
        )
    os.replace(partial, path)


def _download(url: str, name: str, partial: Path, say: Say) -> str:
    """Add to a file what it lacks, with a progress bar. returns: the hash that the hub states"""
    facts = get_hf_file_metadata(url, timeout=LOOKUP_TIMEOUT_S, retry_on_errors=True)
    if partial.exists() and partial.stat().st_size > (facts.size or 0):
        partial.unlink()  # of another file than the hub has
    with partial.open("ab") as file, _told(name, partial, facts.size or 0, say):
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=facts.size,
            displayed_filename=name,
        )
    return str(facts.etag)


@contextmanager
def _told(name: str, partial: Path, size: int, say: Say) -> Iterator[None]:
    """Tell now and then how far a download came: in a step of Dagster stderr is a file, and the
    hub's bar is off."""

    def tell() -> None:
        here = partial.stat().st_size
        say(f"{name}: {here / 1e6:,.1f} of {size / 1e6:,.1f} MB ({here / max(size, 1):.0%})")

    with nullcontext() if sys.stderr.isatty() else repeat_every(TELL_EVERY_S, tell):
        yield


def _hash_like(expected: str, path: Path) -> str:
    """The hub states a sha256 for large files and git's own hash for small ones."""
    if len(expected) == 64:
        return file_sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def in_short(error: Exception) -> str:
    """An error's kind and its first line."""
    first = str(error).splitlines()[0][:200] if str(error) else "no reason given"
    return f"{type(error).__name__}: {first}"
