"""`devopsgpt backup`: the whole home in one tar file, while everything runs.

Databases first, through SQLite's online backup or pg_dump, then the files: a model version enters
the registry after its files are there, so every version in the copy of the database has its files
in the copy of the artifacts.

    manifest.json is the last member: a file that was cut short has none, and `restore` refuses it.
    databases/*.dump      PostgreSQL, where the environment names one
    home/...              the home; SQLite databases as copies, links as links
    artifacts/...         MLflow's artifacts where they lie outside the home
"""

import hashlib
import io
import json
import os
import re
import sqlite3
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.settings import Settings

FORMAT = 1
MANIFEST = "manifest.json"
SQLITE_HEADER = b"SQLite format 3\0"
SQLITE_SIDE_FILES = ("-wal", "-shm", "-journal")
# the service's cache: it fetches what it needs from the registry; and what steps, and this backup,
# are about to delete
NOT_KEPT = ("serving", "tmp")
CUT_OFF_S = 86_400  # a backup that was not written to for so long was killed
ATTEMPTS = 5  # at a consistent listing while a run replaces folders


class BackupError(RuntimeError):
    """A backup that could not be written, or not be read."""


@dataclass
class Manifest:
    """What a backup holds. files: name to sha256 and size; links: name to target"""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        content = {"format": FORMAT, "created": int(time.time()), **self.__dict__}
        return json.dumps(content, indent=1, sort_keys=True).encode()


def backup(settings: Settings, target: Path) -> Path:
    """Write a backup. target: the file, or a folder that gets a file with the time in its name

    returns: the file, which is there whole or not at all
    raises: BackupError, with the remedy
    """
    home = Home(settings.home)
    if not home.path.is_dir():
        raise BackupError(
            f"there is no home at {home.path}; set DEVOPSGPT_HOME to the one to back up"
        )
    if target.is_dir():
        target = target / time.strftime("devopsgpt-%Y%m%d-%H%M%S.tar")
    if target.resolve().is_relative_to(home.path):
        raise BackupError(
            f"{target} lies in the home that is backed up; choose a place outside {home.path}"
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                _write(settings, tar)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise BackupError(f"the backup {target} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def forget_backups(folder: Path, keep: int) -> list[Path]:
    """Delete a folder's backups beyond the newest `keep`, and what killed ones left. returns:
    those"""
    backups = sorted(folder.glob("devopsgpt-*.tar"), reverse=True)  # their names hold the time
    before = time.time() - CUT_OFF_S
    cut_off = [
        path for path in folder.glob(".devopsgpt-*.tar.partial") if path.stat().st_mtime < before
    ]
    old = [*backups[keep:], *cut_off]
    for path in old:
        path.unlink()
    return old


def _write(settings: Settings, tar: tarfile.TarFile) -> None:
    home, manifest = Home(settings.home), Manifest()
    home.temporary.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="devopsgpt-backup-", dir=home.temporary) as folder:
        copies = Path(folder)
        for name, url in settings.postgres_urls.items():
            dump = copies / f"{name}.dump"
            run_postgres(["pg_dump", "--format=custom", f"--file={dump}"], url)
            _add_file(tar, manifest, f"databases/{name}.dump", dump)
        databases = [path for path in _files(home.path) if _is_sqlite(path)]
        for number, path in enumerate(databases):
            copy = copies / f"{number}.db"
            copy_sqlite(path, copy)
            _add_file(tar, manifest, f"home/{path.relative_to(home.path)}", copy)
            copy.unlink()
    _add_tree(tar, manifest, "home", home.path, skip=set(databases))
    if (artifacts := outside_artifacts(settings)) is not None:
        _add_tree(tar, manifest, "artifacts", artifacts, skip=set())
    content = manifest.to_json()
    member = tarfile.TarInfo(MANIFEST)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def run_postgres(command: list[str], url: str) -> str:
    """Run one of PostgreSQL's programs on a database. The password goes through the environment: no
    process list shows it, and no error repeats it.

    raises: BackupError with the program's own words
    """
    match = re.fullmatch(
        r"postgresql(?:\+\w+)?://([^:@/]+)(?::([^@]*))?@([^:/]+)(?::(\d+))?/([\w-]+)", url
    )
    if match is None:
        raise BackupError("a database's URL must be postgresql://user:password@host:port/name")
    user, password, host, port, name = match.groups()
    place = {
        "PGUSER": user,
        "PGPASSWORD": password or "",
        "PGHOST": host,
        "PGPORT": port or "5432",
        "PGDATABASE": name,
    }
    try:
        answer = subprocess.run(command, env=os.environ | place, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BackupError(
            f"{command[0]} is not installed (Debian's package postgresql-client)"
        ) from error
    if answer.returncode != 0:
        raise BackupError(
            f"{command[0]} failed on the database {name}: {answer.stderr.strip()[-500:]}"
        )
    return answer.stdout


def copy_sqlite(source: Path, target: Path) -> None:
    """A copy of a database as of one moment, while others write to it. raises: BackupError for a
    damaged one"""
    try:
        with (
            closing(sqlite3.connect(source, timeout=30)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise BackupError(f"the database {source} could not be copied: {error}") from error


def outside_artifacts(settings: Settings) -> Path | None:
    """MLflow's artifacts where they are a folder outside the home; a bucket has its own backup."""
    place = settings.mlflow_artifacts_destination
    if not place or "://" in place or Path(place).resolve().is_relative_to(settings.home):
        return None
    return Path(place)


def _files(root: Path) -> list[Path]:
    """Files below a folder, in order; not those that belong to a database or can be had again."""
    found = []
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in NOT_KEPT]
        names.sort()
        found += [
            Path(folder, name) for name in sorted(files) if not name.endswith(SQLITE_SIDE_FILES)
        ]
    return found


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER
    except FileNotFoundError:
        return False  # a temporary file of a run


def _add_tree(
    tar: tarfile.TarFile, manifest: Manifest, prefix: str, root: Path, skip: set[Path]
) -> None:
    """A folder's links, folders and files. Links first: each is followed into the folder that it
    stood for then."""
    for _ in range(ATTEMPTS):
        links = {path: os.readlink(path) for path in _links(root)}
        files = [path for path in _files(root) if path not in skip and not path.is_symlink()]
        if links == {path: os.readlink(path) for path in _links(root)}:
            break
    else:
        raise BackupError(
            f"{root} changes faster than it can be listed; try again when no run writes to it"
        )
    for path, target in links.items():
        if Path(target).name != target or target == "..":
            raise BackupError(
                f"{path} points to {target}, and `restore` accepts only links to a name in their "
                "own folder; put what it points to in its place"
            )
    targets = {(path.parent / target) for path, target in links.items()}
    for path in files:
        needed = any(path.is_relative_to(target) for target in targets)
        try:
            _add_file(tar, manifest, f"{prefix}/{path.relative_to(root)}", path)
        except FileNotFoundError as error:
            if needed:
                raise BackupError(
                    f"{path} was replaced while the backup was written; try again when no run "
                    "writes to it"
                ) from error
    for path, target in links.items():
        name = f"{prefix}/{path.relative_to(root)}"
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, target
        tar.addfile(member)
        manifest.links[name] = target


def _links(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in NOT_KEPT]
        yield from (path for name in names + files if (path := Path(folder, name)).is_symlink())


def _add_file(tar: tarfile.TarFile, manifest: Manifest, name: str, path: Path) -> None:
    """A file as it is now: one that grows meanwhile (a log) is cut where it ended when it was
    opened."""
    with path.open("rb") as file:
        member = tar.gettarinfo(fileobj=file, arcname=name)
        reader = _Hashing(file, member.size)
        tar.addfile(member, reader)
    manifest.files[name] = {"sha256": reader.digest.hexdigest(), "size": member.size}


class _Hashing(io.RawIOBase):
    """A file's first bytes, hashed as they are read."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.left = file, size
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block: bytes = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(block)
        self.digest.update(block)
        return block
