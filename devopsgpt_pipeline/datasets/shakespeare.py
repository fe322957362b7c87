"""The dataset `shakespeare`: Karpathy's tiny shakespeare, downloaded or the file given, split by
characters."""

import hashlib
import math
from pathlib import Path

import requests

from devopsgpt_model.atomic import write_atomically
from devopsgpt_model.token_bins import TokenBinsMeta, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TRAIN_SHARE = 0.9  # of the characters, as nanoGPT splits it


class ShakespeareUnavailable(ConnectionError):
    """A text that is neither at hand nor to be downloaded."""


def fetch_shakespeare(path: Path, url: str = URL) -> str:
    """The text at `path`, downloaded there first where it is missing.

    raises: ShakespeareUnavailable without a network, naming the file; ValueError for another text
    than the known one
    """
    if not path.exists():
        try:
            response = requests.get(url, timeout=30)
            response.raise_for_status()
        except requests.RequestException as error:
            raise ShakespeareUnavailable(
                f"tiny shakespeare could not be downloaded from {url} ({error}); put the file at "
                f"{path} by hand"
            ) from error
        _check(response.content, url)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, response.content)
    content = path.read_bytes()
    _check(content, str(path))
    return content.decode("utf-8")


def _check(content: bytes, source: str) -> None:
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ValueError(
            f"{source} should have sha256 {SHA256} and has {found}; it is not tiny shakespeare"
        )


def write_shakespeare(folder: Path, text: str, tokenizer: Tokenizer) -> TokenBinsMeta:
    """Token bins of the first 90% of the characters and of the rest, without end-of-text, as
    nanoGPT writes them."""
    cut = math.floor(len(text) * TRAIN_SHARE)
    documents = {"train": [("train", text[:cut])], "val": [("val", text[cut:])]}
    return write_token_bins(folder, "shakespeare", tokenizer, documents, separate=False)
