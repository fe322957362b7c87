"""Local copies of the standard benchmarks' data, in the form that lm-evaluation-harness's own tasks
read.

Each task's YAML stays as it is but for where its rows come from: Hugging Face's `json` reader and a
file.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
HEADING = re.compile(r"^ ?= [^=].*[^=] = ?$")  # of a page; sections have two and more equals signs


class NoLocalCopy(ValueError):
    """A task whose data is not in the folder that was named."""


@dataclass(frozen=True)
class Copy:
    """What a task's data is named in a folder, and how it becomes rows. split: of the task that is
    measured"""

    names: tuple[str, ...]
    split: str
    rows: Callable[[Path], Iterator[Row]]


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _lambada(path: Path) -> Iterator[Row]:
    """Rows with `text`, of OpenAI's file as they are, of one with `context` and `continuation` put
    together."""
    for row in _json_lines(path):
        yield {"text": row["text"] if "text" in row else f"{row['context']} {row['continuation']}"}


def _pages(path: Path) -> Iterator[Row]:
    """The pages of WikiText's raw text, as EleutherAI's wikitext_document_level cuts it."""
    page: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if HEADING.match(line.rstrip("\n")) and "".join(page).strip():
            yield {"page": "".join(page)}
            page = []
        page.append(line)
    yield {"page": "".join(page)}


COPIES = {
    "lambada_openai": Copy(("lambada_openai.jsonl", "lambada_test.jsonl"), "test", _lambada),
    "wikitext": Copy(("wikitext2_raw_test.txt", "wiki.test.raw"), "test", _pages),
    "hellaswag": Copy(("hellaswag_val.jsonl",), "validation", _json_lines),
}


@dataclass(frozen=True)
class LocalTask:
    """A task on local data. dataset: what replaces the dataset in the task's YAML"""

    dataset: dict[str, Any]
    data_version: str


def local_task(task: str, folder: Path, scratch: Path) -> LocalTask:
    """Lay out a task's local copy for the harness. folder: holds the data as it is published;
    scratch: for the rows

    raises: NoLocalCopy, naming the file that is missing
    """
    if task not in COPIES:
        raise NoLocalCopy(
            f"{task} is not read from a folder, only {', '.join(COPIES)} are; leave "
            "--data out for it"
        )
    copy = COPIES[task]
    path = next((folder / name for name in copy.names if (folder / name).exists()), None)
    if path is None:
        raise NoLocalCopy(
            f"no data of {task} in {folder}: put {' or '.join(copy.names)} there, or "
            "leave --data out"
        )
    rows = scratch / f"{task}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in copy.rows(path)), encoding="utf-8")
    dataset = {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {copy.split: str(rows)}},
    }
    splits = {
        f"{split}_split": split if split == copy.split else None
        for split in ("training", "validation", "test")
    }
    return LocalTask(dataset | splits, hashlib.sha256(path.read_bytes()).hexdigest()[:16])
