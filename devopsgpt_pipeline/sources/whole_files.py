"""Files and folders written whole or not at all.

A folder's switch is prepared beside the files, made valid by one rename, and then carried out; a
process that dies before the rename has changed nothing, one that dies after it leaves a switch that
the next opening finishes.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

PREPARING, READY, REMOVALS = ".next.preparing", ".next", ".removals.json"


def write_whole(path: Path, data: bytes) -> None:
    """Write one file under a temporary name in its folder, then put it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
