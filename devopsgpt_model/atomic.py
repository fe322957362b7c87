"""Folders and files that are written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
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
    turn_link(folder, staging.name)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def turn_link(link: Path, target: str) -> None:
    """Point a symbolic link elsewhere in one step. target: relative to the link's folder"""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one move; a reader finds the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and programs to read, in one move."""
    write_whole(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
