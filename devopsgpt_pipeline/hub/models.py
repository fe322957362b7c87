"""Models on the Hugging Face hub: a name to a commit, and its files into a folder.

HF_ENDPOINT is honoured. Data only: of the weights' formats safetensors alone. A download that
breaks, or is killed, goes on where it was; a file has its name only once its hash was checked.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from devopsgpt_model.threads import repeat_every

WEIGHTS = "model.safetensors"
NEEDED = ("config.json", "tokenizer.json", WEIGHTS)
HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
LOOKUP_TIMEOUT_S = 10.0
TELL_EVERY_S = 5.0  # where no terminal shows a bar

Say = Callable[[str], None]
"""Who hears of a download that takes long."""


def say_on_stderr(text: str) -> None:
    """A line for who reads a log."""
    print(text, file=sys.stderr, flush=True)


class HubUnavailable(ConnectionError):
    """A hub that does not answer."""


@dataclass(frozen=True)
class HubModel:
    """A repository at a commit, which fixes every file in it."""

    repository: str
    commit: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.commit}"


def look_up(name: str) -> HubModel:
    """What a name stands for now. name: `distilgpt2`, or with a branch, tag or commit:
    `owner/name@revision`

    raises: HubUnavailable where the hub does not answer; ValueError for a name that it does not
    know, or a model without safetensors
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    asked = HUB_NAME.fullmatch(name)
    if asked is None:
        raise ValueError(
            f"a model on the hub is named as in distilgpt2 or owner/name@revision, got {name!r}"
        )
    try:
        info = HfApi().model_info(
            asked["name"], revision=asked["revision"], timeout=LOOKUP_TIMEOUT_S
        )
    except Exception as error:  # the hub's client raises its HTTP library's errors beside its own
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
            raise ValueError(
                f"the Hugging Face hub knows no model {name}, or shows it only with a login"
            ) from error
        raise HubUnavailable(
            f"the Hugging Face hub could not be asked for {name} ({_in_short(error)})"
        ) from error
    files = {each.rfilename for each in info.siblings or []}
    if missing := [each for each in NEEDED if each not in files]:
        raise ValueError(
            f"{name} on the hub has no {missing[0]}; only GPT-2 models with "
            f"{', '.join(NEEDED)} are taken"
        )
    return HubModel(info.id, str(info.sha))


def fetch_files(
    model: HubModel,
    names: tuple[str, ...],
    folder: Path,
    sha256: dict[str, str] | None = None,
    say: Say = say_on_stderr,
) -> None:
    """Fetch the files that are not there yet, the weights last. sha256: what they must be, else
    what the hub states

    raises: HubUnavailable where the hub does not answer; ValueError for another hash
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for name in sorted(names, key=lambda each: each == WEIGHTS):
            if not (folder / name).exists():
                _fetch(model, name, folder, (sha256 or {}).get(name), say)


def _fetch(model: HubModel, name: str, folder: Path, expected: str | None, say: Say) -> None:
    partial = folder / f".{name}.partial"
    try:
        stated = _download(model, name, partial, say)
    except Exception as error:  # see look_up
        raise HubUnavailable(
            f"{name} of {model} could not be fetched ({_in_short(error)})"
        ) from error
    expected = expected or stated
    found = _hash_like(expected, partial)
    if found != expected:
        partial.unlink()
        raise ValueError(
            f"{name} of {model} should have the hash {expected} and has {found}; it was removed"
        )
    os.replace(partial, folder / name)


def _download(model: HubModel, name: str, partial: Path, say: Say) -> str:
    """Add to a file what it lacks, with a progress bar. returns: the hash that the hub states"""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # hf_hub_download forgets a partial file with its process
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(model.repository, name, revision=model.commit)
    facts = get_hf_file_metadata(url, timeout=LOOKUP_TIMEOUT_S)
    if partial.exists() and partial.stat().st_size > (facts.size or 0):
        partial.unlink()  # of another file than the hub has
    with partial.open("ab") as file, _told(name, partial, facts.size or 0, say):
        http_get(
            url,
            file,  # type: ignore[arg-type]
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
    with path.open("rb") as file:
        if len(expected) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha1(f"blob {path.stat().st_size}\0".encode() + file.read()).hexdigest()


def _in_short(error: Any) -> str:
    return (
        f"{type(error).__name__}: "
        f"{str(error).splitlines()[0][:200] if str(error) else 'no reason given'}"
    )
