"""Files and folders that are written whole or not at all, and the hash that tells if they are.

A switch of many files is prepared beside them, made valid by one rename, and then carried out: a
process that dies before the rename has changed nothing, one that dies after it leaves a switch that
the next opening finishes.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PREPARING, READY, REMOVALS = ".next.preparing", ".next", ".removals.json"


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `folder` in one move when the block ends well.

    `folder` is a symbolic link to what was written last: turning it is one atomic step, so a reader
    finds the old content or the new one, and a kill at any moment loses neither.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    staging.chmod(0o755)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    old = folder.resolve() if folder.is_symlink() else None
    replace_symlink(folder, staging.name)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def replace_symlink(link: Path, target: str) -> None:
    """Point a symbolic link elsewhere in one step. target: relative to the link's folder"""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file in one move, its folder made where it is missing.

    A reader finds the old content or the new one; after a power cut, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs to read, in one move."""
    write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def switch_files(
    folder: Path, files: Mapping[str, bytes], removed: Collection[str], last: str
) -> None:
    """Put files (name -> bytes, / between folders) in place and take removed ones away, as one
    step.

    last: the file that names the others, replaced after them
    """
    finish_switch(folder, last)
    preparing = folder / PREPARING
    preparing.mkdir(parents=True)
    for name, data in files.items():
        path = preparing / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (preparing / REMOVALS).write_text(json.dumps(sorted(removed)))
    os.replace(preparing, folder / READY)
    finish_switch(folder, last)


def finish_switch(folder: Path, last: str) -> None:
    """Carry out a prepared switch, or clear away one that was not prepared to its end. Safe to
    repeat."""
    ready = folder / READY
    shutil.rmtree(folder / PREPARING, ignore_errors=True)
    if not ready.is_dir():
        return
    removals = ready / REMOVALS
    removed = json.loads(removals.read_text()) if removals.exists() else []
    staged = sorted(
        path for path in ready.rglob("*") if path.is_file() and path not in (removals, ready / last)
    )
    for path in [*staged, ready / last]:
        if path.exists():
            target = folder / path.relative_to(ready)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(ready)
