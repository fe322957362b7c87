"""The content of a backup's tar file, into an empty folder: what its manifest names and no more.

Files and links are written here, under names that were looked at first. tarfile only reads: what it
extracts by itself could leave its folder before Python 3.11.13, 3.12.11 and 3.13.4, also with the
filter `data`. Knows no home and no database.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from devopsgpt_pipeline.operations.backup import FORMAT, MANIFEST, BackupError, Manifest

PLACES = ("home", "artifacts", "databases")
MAX_MANIFEST_BYTES = 256 * 2**20  # a million files
CHUNK_BYTES = 2**20
SHA256 = re.compile(r"[0-9a-f]{64}")
YEAR_2200 = 7_258_118_400
# a header's number can be anything
ODD_HEADERS = (tarfile.TarError, ValueError, OverflowError, RecursionError)


def unpack(source: Path, staged: Path) -> None:
    """Write a backup's files and links below staged.

    raises: BackupError for anything that the manifest does not name, names otherwise, or that is
    not as it says; OSError
    """
    try:
        # uncompressed, as it was written: a small file must not become a large one
        with tarfile.open(source, mode="r:") as tar:
            members = list(_members(tar, source))
            manifest = _read_manifest(tar, members, source)
            _check_members(members, manifest, source)
            for member in members:
                if member.name in manifest.files:
                    _write_file(tar, member, staged / member.name, manifest, source)
    except ODD_HEADERS as error:
        raise BackupError(f"{source} could not be restored: {error}") from error
    # links last, so that no file was written through one
    for name, target in manifest.links.items():
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def _members(tar: tarfile.TarFile, source: Path) -> Iterator[tarfile.TarInfo]:
    before = -1
    while (member := tar.next()) is not None:
        # a negative size leads tarfile back to where it was
        if member.size < 0 or member.offset <= before:
            raise BackupError(
                f"{source}: the size of {member.name} is no size; take another backup"
            )
        before = member.offset
        yield member


def _read_manifest(tar: tarfile.TarFile, members: list[tarfile.TarInfo], source: Path) -> Manifest:
    found = [member for member in members if member.name == MANIFEST]
    if not found:
        raise BackupError(
            f"{source} ends before its manifest: it was cut short; take another backup"
        )
    file = tar.extractfile(found[0]) if found[0].isreg() else None
    if len(found) > 1 or file is None or found[0].size > MAX_MANIFEST_BYTES:
        raise BackupError(
            f"{source}: a backup has one manifest, a file of at most {MAX_MANIFEST_BYTES:,} bytes; "
            "take another backup"
        )
    try:
        table = json.loads(file.read())
        if table["format"] != FORMAT:
            raise BackupError(
                f"{source} has format {table['format']!r:.40}, this program reads {FORMAT}"
            )
        return _checked(table)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BackupError(
            f"{source}: its manifest is malformed ({said:.300}); take another backup"
        ) from error


def _checked(table: dict[str, Any]) -> Manifest:
    """A manifest whose every name can be written. raises: ValueError and others for a malformed
    one"""
    files, links = dict(table["files"]), dict(table["links"])
    for name, facts in files.items():
        size, sha256 = facts["size"], facts["sha256"]
        if type(size) is not int or size < 0 or not SHA256.fullmatch(sha256):
            raise ValueError(f"{name!r} must have a size and a sha256, has {facts!r:.100}")
    for name, target in links.items():
        if not _is_name(target):
            raise ValueError(
                f"the link {name!r} must point to a name in its own folder, points to {target!r}"
            )
    names = [*files, *links]
    for name in names:
        parts = name.split("/")
        if len(parts) < 2 or parts[0] not in PLACES or not all(map(_is_name, parts)):
            raise ValueError(f"a name must lie below {', '.join(PLACES)}, got {name!r}")
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    if double := (folders & set(names)) | (files.keys() & links.keys()):
        raise ValueError(f"{min(double)!r} is named twice, as a file, a link or a folder")
    return Manifest(files, links)


def _is_name(part: Any) -> bool:
    return isinstance(part, str) and part not in ("", ".", "..") and not set(part) & {"/", "\0"}


def _check_members(members: list[tarfile.TarInfo], manifest: Manifest, source: Path) -> None:
    """Nothing is written before every header says what the manifest says."""
    seen: set[str] = set()
    for member in members:
        name = member.name
        if name == MANIFEST:
            continue
        if name in seen:
            raise BackupError(f"{source}: {name} is in it twice; take another backup")
        seen.add(name)
        if name in manifest.files:
            facts = manifest.files[name]
            as_named = member.isreg() and not member.issparse() and member.size == facts["size"]
        elif name in manifest.links:
            as_named = member.issym() and member.linkname == manifest.links[name]
        else:
            raise BackupError(f"{source}: {name} is not in its manifest; take another backup")
        if not as_named:
            raise BackupError(
                f"{source}: {name} is not what its manifest says; take another backup"
            )
    if missing := (manifest.files.keys() | manifest.links.keys()) - seen:
        raise BackupError(f"{source}: {min(missing)} is missing or damaged; take another backup")


def _write_file(
    tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, manifest: Manifest, source: Path
) -> None:
    """A file with its time and its owner's rights, and no right to write for others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, packed = hashlib.sha256(), tar.extractfile(member)
    if packed is None:
        raise BackupError(f"{source}: {member.name} is no file; take another backup")
    with path.open("xb") as file:
        while block := packed.read(CHUNK_BYTES):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != manifest.files[member.name]["sha256"]:
        raise BackupError(f"{source}: {member.name} is missing or damaged; take another backup")
    path.chmod(member.mode & 0o755 | 0o600)
    if 0 <= member.mtime < YEAR_2200:
        os.utime(path, (member.mtime, member.mtime))
