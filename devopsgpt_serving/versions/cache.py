"""Model versions on this disk: whole and verified, or not there at all.

    <cache>/<version>-<hash of its source>/   manifest.json, version.json, model/...
    <cache>/last_good-<hash>.json             what was served last under one name and alias
    <cache>/.download-*/                      downloads under way, each locked by its process

The hash keeps versions of different registries apart: a fresh registry counts from 1 again.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from devopsgpt_model.atomic import write_json

MAX_MANIFEST_BYTES = 1_000_000
DOWNLOAD_PREFIX = ".download-"
NOTE_PREFIX = "last_good-"


class DamagedVersion(ValueError):
    """Files of a model version that are missing, or not what its manifest says."""


@dataclass(frozen=True)
class Version:
    """A model version as the registry describes it. created: Unix seconds"""

    name: str
    version: str
    source: str
    created: int
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.version}-{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"


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
            with _lock(leftover) as free:
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
            with _lock(staging):
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def keep(self, staging: Path, version: Version) -> Path:
        """Take a downloaded version into the cache, once its files are what its manifest says.

        raises: DamagedVersion otherwise
        """
        check_files(staging, read_manifest(staging))
        write_json(staging / "version.json", asdict(version))
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
        write_json(self._note(version.name, alias), {"alias": alias, "version": asdict(version)})

    def last_good(self, name: str, alias: str) -> Version | None:
        """The version that was served last under a name and alias, where it was noted."""
        noted = _read_note(self._note(name, alias))
        return noted[0] if noted and (noted[0].name, noted[1]) == (name, alias) else None

    def _note(self, name: str, alias: str) -> Path:
        # a registered model may be called anything, so its name is no part of a path
        asked = hashlib.sha256(json.dumps([name, alias]).encode()).hexdigest()[:16]
        return self.folder / f"{NOTE_PREFIX}{asked}.json"

    def _remembered(self) -> set[str]:
        """Keys of what every service of this cache served last."""
        notes = [_read_note(path) for path in self.folder.glob(f"{NOTE_PREFIX}*.json")]
        return {noted[0].key for noted in notes if noted}


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File names of a version with sha256 and size. raises: DamagedVersion for one that is no
    manifest of ours"""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise DamagedVersion(
                f"manifest.json has at most {MAX_MANIFEST_BYTES} bytes, got {path.stat().st_size}"
            )
        files = json.loads(path.read_text())["files"]
        for name, facts in files.items():
            parts = name.split("/")
            if len(parts) != 2 or parts[0] != "model" or parts[1].startswith(".") or "\\" in name:
                raise DamagedVersion(
                    f"manifest.json may list files model/<name> only, got {name!r}"
                )
            if (
                not isinstance(facts["sha256"], str)
                or not isinstance(facts["size"], int)
                or facts["size"] < 0
            ):
                raise DamagedVersion(f"manifest.json needs sha256 and size of {name}, got {facts}")
    except FileNotFoundError:
        raise DamagedVersion("the version has no manifest.json; publish it again") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedVersion):
            raise
        raise DamagedVersion(f"manifest.json is damaged: {error!r}") from error
    if not files:
        raise DamagedVersion("manifest.json lists no file; publish the version again")
    return dict(files)


def read_lineage(folder: Path) -> dict[str, Any]:
    """What a verified version recorded of its making; empty for one from before that was recorded.

    raises: DamagedVersion for one that is no JSON object
    """
    path = folder / "model" / "lineage.json"
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DamagedVersion(
            f"model/lineage.json is damaged: {error}; publish the version again"
        ) from error
    if not isinstance(lineage, dict):
        raise DamagedVersion(f"model/lineage.json must be an object, got {type(lineage).__name__}")
    return lineage


def check_files(folder: Path, manifest: dict[str, dict[str, Any]]) -> None:
    """raises: DamagedVersion for a file that is missing, too short, too long or altered"""
    for name, facts in manifest.items():
        path = folder / name
        if not path.is_file():
            raise DamagedVersion(f"{name} is missing")
        if path.stat().st_size != facts["size"]:
            raise DamagedVersion(
                f"{name} should have {facts['size']} bytes and has {path.stat().st_size}"
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != facts["sha256"]:
            raise DamagedVersion(
                f"{name} should have sha256 {facts['sha256'][:12]}... and has {found[:12]}..."
            )


def _read_note(path: Path) -> tuple[Version, str] | None:
    """The version that a note tells of and its alias; None for a note that is missing or
    damaged."""
    try:
        noted = json.loads(path.read_text())
        return Version(**noted["version"]), noted["alias"]
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, which the system frees when its process dies. yields: whether it was
    free"""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
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
