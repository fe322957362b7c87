"""Models on the Hugging Face hub: a name to a commit, and its files into a folder.

Data only: of the weights' formats safetensors alone.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError

from devopsgpt_pipeline.hub.download import (
    LOOKUP_TIMEOUT_S,
    HubUnavailable,
    Say,
    fetch_file,
    in_short,
    say_on_stderr,
)

WEIGHTS = "model.safetensors"
NEEDED = ("config.json", "tokenizer.json", WEIGHTS)
HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>[\w./-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


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
            f"the Hugging Face hub could not be asked for {name} ({in_short(error)})"
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

    raises: as fetch_file
    """
    for name in sorted(names, key=lambda each: each == WEIGHTS):
        url = hf_hub_url(model.repository, name, revision=model.commit)
        fetch_file(url, folder / name, str(model), (sha256 or {}).get(name), say)
