"""A dataset out of any folder of text files, whole files held out by a hash of their names."""

import hashlib
import math
import re
from pathlib import Path

from devopsgpt_model.token_bins import TokenBinsMeta, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets.books import DatasetError
from devopsgpt_pipeline.home import BOOKS, OLD_BOOKS

SUFFIXES = (".txt", ".md")
HELD_OUT = 0.1  # of the files, or of the characters of a single file
# datasets that are made when somebody asks for them, as a folder's is
ON_DEMAND = ("shakespeare", "openwebtext")
RESERVED = (BOOKS, OLD_BOOKS, *ON_DEMAND)


def parse_text_folders(text: str) -> dict[str, Path]:
    """Folders by their datasets' names. text: name=folder, separated by commas

    raises: ValueError for another form, which names DEVOPSGPT_TEXT_FOLDERS
    """
    folders: dict[str, Path] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, separator, folder = entry.partition("=")
        if (
            not separator
            or not folder
            or not re.fullmatch(r"[a-z][a-z0-9_]*", name)
            or name in RESERVED
        ):
            raise ValueError(
                "DEVOPSGPT_TEXT_FOLDERS must be name=folder,... with names of a-z, 0-9 and _ that "
                f"are not {', '.join(RESERVED)}; got {entry!r}"
            )
        folders[name] = Path(folder)
    return folders


def write_folder(bins: Path, name: str, folder: Path, tokenizer: Tokenizer) -> TokenBinsMeta:
    """Token bins of every .txt and .md file below a folder, in the order of their names.

    raises: DatasetError for a folder without text, or a file that is not UTF-8
    """
    texts = _read(folder)
    if len(texts) == 1:
        ((only, text),) = texts
        cut = math.floor(len(text) * (1 - HELD_OUT))
        return write_token_bins(
            bins, name, tokenizer, {"train": [(only, text[:cut])], "val": [(only, text[cut:])]}
        )
    ordered = sorted(texts, key=lambda entry: hashlib.sha256(entry[0].encode()).digest())
    held = {path for path, _ in ordered[: max(1, round(len(texts) * HELD_OUT))]}
    train = [entry for entry in texts if entry[0] not in held]
    return write_token_bins(
        bins, name, tokenizer, {"train": train, "val": [e for e in texts if e[0] in held]}
    )


def _read(folder: Path) -> list[tuple[str, str]]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    try:
        texts = [
            (str(path.relative_to(folder)), path.read_text(encoding="utf-8")) for path in paths
        ]
    except UnicodeDecodeError as error:
        raise DatasetError(f"a text file in {folder} is not UTF-8: {error}") from error
    texts = [(name, text) for name, text in texts if text.strip()]
    if not texts:
        raise DatasetError(
            f"no text in {folder}: it needs files named {' or '.join('*' + s for s in SUFFIXES)}"
        )
    return texts
