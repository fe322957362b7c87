"""`devopsgpt restore`: a backup into an empty place, checked byte by byte before anything of it is used."""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from platform import python_version as version
from typing import Any

from devopsgpt_pipeline.backup import FORMAT, MANIFEST, BackupError, outside_artifacts, postgres_urls, run_postgres
from devopsgpt_pipeline.home import Home

TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"


def restore(source: Path, home: Home) -> None:
    """Bring a backup back. The home, the databases and the artifacts' folder must be empty.

    The databases come last but one and the home last: a home that is there is a restore that ended.
    raises: BackupError for a place that is not empty, a file that is damaged or cut short, a database that refuses
    """
    urls, artifacts = postgres_urls(), outside_artifacts(home)
    _require_empty([home.path, *([artifacts] if artifacts else [])], urls)
    try:
        home.path.parent.mkdir(parents=True, exist_ok=True)
        # beside the home, so that one rename brings it in; inside where the home is a mounted volume
        beside = home.path if os.path.ismount(home.path) else home.path.parent
        with tempfile.TemporaryDirectory(prefix=".devopsgpt-restore-", dir=beside) as folder:
            staged = Path(folder)
            _unpack(source, staged)
            _require_same_databases(staged, urls)
            if artifacts:
                (staged / "artifacts").mkdir(exist_ok=True)
                shutil.copytree(staged / "artifacts", artifacts, symlinks=True, dirs_exist_ok=True)
            for name, url in urls.items():
                dump = staged / "databases" / f"{name}.dump"
                # --dbname= with nothing: connect as the environment says, instead of printing a script
                run_postgres(["pg_restore", "--no-owner", "--single-transaction", "--dbname=", str(dump)], url)
            _move_in(staged / "home", home.path)
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{source} could not be restored: {error}") from error


def _require_empty(folders: list[Path], urls: dict[str, str]) -> None:
    for folder in folders:
        if folder.exists() and any(folder.iterdir()):
            raise BackupError(f"{folder} is not empty; restore into an empty place and move it where it belongs")
    for name, url in urls.items():
        if run_postgres(["psql", "-At", "-c", TABLES], url).strip() != "0":
            raise BackupError(f"the database {name} is not empty; restore into a new one")


def _unpack(source: Path, staged: Path) -> None:
    """Everything, then the manifest's word for each file. raises: BackupError for one that it does not cover"""
    if not hasattr(tarfile, "data_filter"):
        raise BackupError(
            f"restore needs Python 3.11.4 or newer, whose tarfile refuses what leaves its folder; this is {version()}"
        )
    with tarfile.open(source) as tar:
        tar.extractall(staged, filter="data")  # no absolute paths, no links out of the folder, no devices
    manifest = _manifest(staged, source)
    for name, facts in manifest["files"].items():
        path = staged / name
        if not path.is_file() or path.stat().st_size != facts["size"] or _sha256(path) != facts["sha256"]:
            raise BackupError(f"{source}: {name} is missing or damaged; take another backup")
    found = {str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file() and not path.is_symlink()}
    if extra := found - manifest["files"].keys() - {MANIFEST}:
        raise BackupError(f"{source}: {min(extra)} is not in its manifest; take another backup")


def _manifest(staged: Path, source: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((staged / MANIFEST).read_text())
    except FileNotFoundError:
        raise BackupError(f"{source} ends before its manifest: it was cut short; take another backup") from None
    if manifest["format"] != FORMAT:
        raise BackupError(f"{source} has format {manifest['format']}, this program reads {FORMAT}")
    return manifest


def _require_same_databases(staged: Path, urls: dict[str, str]) -> None:
    held = {path.stem for path in (staged / "databases").glob("*.dump")}
    if held != set(urls):
        raise BackupError(
            f"the backup holds PostgreSQL databases {sorted(held)}, the environment names {sorted(urls)}; set "
            "DAGSTER_POSTGRES_URL and MLFLOW_BACKEND_STORE_URI as they were"
        )


def _move_in(staged: Path, home: Path) -> None:
    if not os.path.ismount(home):
        if home.exists():
            home.rmdir()
        os.rename(staged, home)
        return
    for entry in sorted(staged.iterdir()):
        os.rename(entry, home / entry.name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
