"""Weights to start from: OpenAI's four sizes of GPT-2 at pinned revisions, and any other GPT-2
model of the hub."""

import json
from dataclasses import dataclass
from pathlib import Path

from devopsgpt_model.atomic import file_sha256, write_json
from devopsgpt_pipeline.hub.download import HubUnavailable, Say, say_on_stderr
from devopsgpt_pipeline.hub.models import COMMIT, NEEDED, WEIGHTS, HubModel, fetch_files, look_up

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    WEIGHTS,
)


class PretrainedUnavailable(HubUnavailable):
    """Pretrained weights that are neither in the home nor to be fetched."""


@dataclass(frozen=True)
class Pretrained:
    """Where a size comes from."""

    repository: str

    revision: str
    """A commit of the hub's repository, which fixes every file in it."""

    sha256: str = ""
    """Of model.safetensors at that commit; empty where we could not learn it, and what the hub
    states is believed."""

    @property
    def model(self) -> HubModel:
        return HubModel(self.repository, self.revision)


PRETRAINED = {
    "gpt2": Pretrained(
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707",
    ),
    "gpt2-medium": Pretrained(
        "openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"
    ),
    "gpt2-large": Pretrained(
        "openai-community/gpt2-large",
        "32b71b12589c2f8d625668d2335a01cac3249519",
        "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
    ),
    "gpt2-xl": Pretrained(
        "openai-community/gpt2-xl",
        "15ea56dee5df4983c59b2538573817e1667135e2",
        "0f8b28eb05a8075f48b61b6f35332978c74fc7763fa9fb4051a1c30511736a6a",
    ),
}


def fetch_pretrained(size: str, folder: Path, say: Say = say_on_stderr) -> str:
    """Fetch a size into a folder, going on with what is there already, be it put there by hand.

    returns: sha256 of model.safetensors
    raises: PretrainedUnavailable with no network, naming the files and the folder; ValueError for a
    wrong hash
    """
    source = PRETRAINED[size]
    if any(not (folder / name).exists() for name in FILES):
        expected = {WEIGHTS: source.sha256} if source.sha256 else {}
        fetch_or_say_what_to_do(source.model, FILES, folder, expected, say)
    found = file_sha256(folder / WEIGHTS)
    if source.sha256 not in ("", found):
        raise ValueError(
            f"{folder / WEIGHTS} has the sha256 {found}, and {size}'s is {source.sha256}: put "
            f"{source.model}'s file "
            "there, or remove it to have it fetched; to start from other weights, set init_from to "
            "their folder"
        )
    return found


def fetch_from_hub(name: str, root: Path) -> tuple[HubModel, Path]:
    """A model by its name on the hub, such as `distilgpt2` or `owner/name@revision`. root: holds
    what was fetched

    A revision that is no commit is looked up each time; without a network, what it stood for last
    is taken.
    returns: the model with its commit, and its checkpoint folder
    raises: PretrainedUnavailable, saying what to do by hand; ValueError for a name or a hash that
    is wrong
    """
    note = root / "resolved" / f"{name.replace('/', '--')}.json"
    repository, _, revision = name.partition("@")
    if note.exists() and COMMIT.fullmatch(revision):
        model = HubModel(**json.loads(note.read_text()))
    else:
        try:
            model = look_up(name)
        except HubUnavailable as error:
            if not note.exists():
                raise PretrainedUnavailable(
                    f"{error}; without a network, put {', '.join(NEEDED)} of {repository} into a "
                    "folder and set "
                    "init_from to that folder"
                ) from error
            model = HubModel(**json.loads(note.read_text()))
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"repository": model.repository, "commit": model.commit})
    folder = _folder(root, model)
    if any(not (folder / each).exists() for each in NEEDED):
        fetch_or_say_what_to_do(model, NEEDED, folder, {})
    return model, folder


def folders_in_use(root: Path) -> set[Path]:
    """Folders of the commits that some name stood for last: what fetch_from_hub may give without
    asking the hub."""
    notes = (json.loads(note.read_text()) for note in (root / "resolved").glob("*.json"))
    return {_folder(root, HubModel(**note)) for note in notes}


def _folder(root: Path, model: HubModel) -> Path:
    return root / model.repository.replace("/", "--") / model.commit


def fetch_or_say_what_to_do(
    model: HubModel,
    names: tuple[str, ...],
    folder: Path,
    sha256: dict[str, str],
    say: Say = say_on_stderr,
) -> None:
    """Fetch files. raises: PretrainedUnavailable that names them and the folder; ValueError for a
    wrong hash"""
    try:
        fetch_files(model, names, folder, sha256, say)
    except HubUnavailable as error:
        raise PretrainedUnavailable(
            f"{error}; without a network, put {', '.join(names)} of {model.repository} at revision "
            f"{model.commit[:12]} into {folder}"
        ) from error
