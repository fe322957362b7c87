"""OpenAI's GPT-2 weights from the Hugging Face hub: revision pinned, hash checked, safetensors only."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


class PretrainedUnavailable(ConnectionError):
    """Pretrained weights that are neither in the home nor to be fetched."""


@dataclass(frozen=True)
class Pretrained:
    """Where a size comes from. revision: a commit of the hub's repository, which fixes every file in it"""

    repository: str
    revision: str


PRETRAINED = {
    "gpt2": Pretrained("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "gpt2-medium": Pretrained("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-large": Pretrained("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-xl": Pretrained("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}


def fetch_pretrained(size: str, folder: Path) -> str:
    """Fetch a size into a folder, going on with what is there already; files put there by hand are taken as they are.

    returns: sha256 of model.safetensors
    raises: PretrainedUnavailable with no network, naming the files and the folder; ValueError for a wrong hash
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / FILES[-1]
    if not all((folder / name).exists() for name in FILES):
        expected = _download(size, folder)
        if (found := _sha256(weights)) != expected:
            weights.unlink()
            raise ValueError(f"{weights} has sha256 {found}, the hub says {expected}; it was removed, fetch it again")
        return found
    return _sha256(weights)


def _download(size: str, folder: Path) -> str:
    """returns: the sha256 that the hub declares for the weights at the pinned revision"""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    source = PRETRAINED[size]
    try:
        for name in FILES:
            hf_hub_download(source.repository, name, revision=source.revision, local_dir=folder)
        url = hf_hub_url(source.repository, FILES[-1], revision=source.revision)
        return str(get_hf_file_metadata(url).etag)  # of a large file, the hub's tag is its sha256
    except Exception as error:  # the hub's client raises its HTTP library's errors beside its own
        raise PretrainedUnavailable(
            f"{size} could not be fetched from the Hugging Face hub ({type(error).__name__}: {error}); without a "
            f"network, put {', '.join(FILES)} of {source.repository} at revision {source.revision[:12]} into {folder}"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
