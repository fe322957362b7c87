"""Model versions on this disk: whole and verified, or not there at all.

    <cache>/<number>-<hash of its source>/    manifest.json, version.json, model/...
    <cache>/last_good-<hash>.json             what was served last under one name and alias
    <cache>/.download-*/                      downloads under way, each locked by its process
    <cache>/.loading-*                        loads under way (load_marks.py)

Services of several names and aliases may share a cache; what one of them served last is never
another's.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from devopsgpt_model.atomic import write_json
from devopsgpt_serving.errors import DamagedVersion
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.verification import check_files, read_manifest

DOWNLOAD_PREFIX = ".download-"
NOTE_PREFIX = "last_good-"


class VersionCache:
    """A folder of verified versions, the least recently used ones dropped above a size, or for room
    on the disk."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def prepare(self) -> None:
        """Create the folder and clear what killed downloads left. raises: OSError where it cannot
        be written"""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise OSError(
                f"the cache {self.folder} cannot be written ({error.strerror}); "
                "set DEVOPSGPT_SERVING_CACHE_DIR to a folder that you may write"
            ) from error
        for leftover in self.folder.glob(f"{DOWNLOAD_PREFIX}*"):
            with locked(leftover) as free:
                if free:
                    shutil.rmtree(leftover, ignore_errors=True)

    def has(self, version: Version) -> bool:
        """Whether a version is here, its files not looked at."""
        return (self.folder / version.key).is_dir()

    def verified(self, version: Version) -> Path | None:
        """The folder of a version, checked byte by byte; None where it is not here. Damaged ones
        are removed."""
        folder = self.folder / version.key
        if not folder.is_dir():
            if os.path.lexists(folder):  # a file, or a link to nowhere, would be in the way
                folder.unlink()
            return None
        try:
            check_files(folder, read_manifest(folder))
        except (DamagedVersion, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder)
        return folder

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A folder to download into, gone at the end of the block unless `keep` took it."""
        staging = Path(tempfile.mkdtemp(prefix=DOWNLOAD_PREFIX, dir=self.folder))
        try:
            with locked(staging):
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def keep(self, staging: Path, version: Version) -> Path:
        """Take a downloaded version into the cache, once its files are what its manifest says.

        raises: DamagedVersion otherwise
        """
        check_files(staging, read_manifest(staging))
        write_json(staging / "version.json", version.to_json())
        staging.chmod(0o755)
        folder = self.folder / version.key
        try:
            os.rename(staging, folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
        return folder

    def trim(self, in_use: Collection[str]) -> None:
        """Drop the versions used longest ago until the rest fits; those in use or remembered
        stay."""
        self._drop(
            sum(_size(path) for path in self._versions()) - self.max_bytes, self._droppable(in_use)
        )

    def make_room(self, needed: int, in_use: Collection[str]) -> None:
        """Drop the versions used longest ago until the disk has so many free bytes; those in use or
        remembered stay.

        Where all of them together would not be enough, none is dropped.
        """
        missing, droppable = needed - self.free_bytes(), self._droppable(in_use)
        if missing <= sum(_size(path) for path in droppable):
            self._drop(missing, droppable)

    def free_bytes(self) -> int:
        """Room on the disk."""
        return shutil.disk_usage(self.folder).free

    def _versions(self) -> list[Path]:
        return [path for path in self.folder.glob("[0-9]*-*") if path.is_dir()]

    def _droppable(self, in_use: Collection[str]) -> list[Path]:
        """Versions that nobody needs here, used longest ago first."""
        kept = self._remembered() | set(in_use)
        return sorted((path for path in self._versions() if path.name not in kept), key=_last_use)

    def _drop(self, surplus: int, folders: list[Path]) -> None:
        """Remove folders one by one until so many bytes are gone."""
        for path in folders:
            if surplus <= 0:
                return
            surplus -= _size(path)
            shutil.rmtree(path, ignore_errors=True)

    def remember(self, version: Version, alias: str) -> None:
        """Note the version that is served under an alias, for a start while the registry is
        down."""
        write_json(self._note(version.name, alias), {"alias": alias, "version": version.to_json()})

    def last_good(self, name: str, alias: str) -> Version | None:
        """The version that was served last under a name and alias, where it was noted."""
        noted = _read_note(self._note(name, alias))
        return noted[0] if noted and (noted[0].name, noted[1]) == (name, alias) else None

    def _note(self, name: str, alias: str) -> Path:
        return self.folder / f"{NOTE_PREFIX}{name_of_alias(name, alias)}.json"

    def _remembered(self) -> set[str]:
        """Keys of what every service of this cache served last."""
        notes = [_read_note(path) for path in self.folder.glob(f"{NOTE_PREFIX}*.json")]
        return {noted[0].key for noted in notes if noted}


def _read_note(path: Path) -> tuple[Version, str] | None:
    """A noted version and its alias; None for a note that is missing or damaged."""
    try:
        noted = json.loads(path.read_text())
        return Version.from_json(noted["version"]), noted["alias"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def name_of_alias(name: str, alias: str) -> str:
    """A part of a file's name for an alias of a registered model, which may be called anything."""
    return hashlib.sha256(json.dumps([name, alias]).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a file's or folder's lock, which the system frees when its process dies. yields: whether
    it was free"""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _last_use(folder: Path) -> float:
    return folder.stat().st_mtime


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
