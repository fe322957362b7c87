"""`devopsgpt restore`: a backup into an empty place, checked byte by byte before anything of it is
used.

Files move in last, by renaming, out of staging folders in or beside the places where they belong.
The process that fills one holds its lock; those of a killed restore are cleared by the next.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.operations.backup import (
    BackupError,
    outside_artifacts,
    run_postgres,
)
from devopsgpt_pipeline.operations.unpack import unpack
from devopsgpt_pipeline.settings import Settings

TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"
STAGING_PREFIX = ".devopsgpt-restore-"


def restore(source: Path, settings: Settings) -> None:
    """Bring a backup back. The home, the databases and the artifacts' folder must be empty.

    Each database is filled in one transaction, then the files move in, the home last: a home that
    is there is a restore that ended. After a failure before that the folders are empty still; a
    database that was filled is not.
    raises: BackupError for a place that is not empty, a file that is damaged or cut short, a
    database that refuses; it names what must be emptied before another try
    """
    home, urls = Home(settings.home), settings.postgres_urls
    artifacts = outside_artifacts(settings)
    filled: list[str] = []
    try:
        _clear_leftovers([home.path.parent, home.path, *([artifacts] if artifacts else [])])
        _require_empty([home.path, *([artifacts] if artifacts else [])], urls)
        _restore(source, home, urls, artifacts, filled)
    except (OSError, BackupError) as error:
        said = (
            str(error)
            if isinstance(error, BackupError)
            else f"{source} could not be restored: {error}"
        )
        if filled:
            said += f". Filled before that: {', '.join(filled)}; "
            said += "empty it or take a new one, then restore again"
        raise BackupError(said) from error


def _restore(
    source: Path, home: Home, urls: dict[str, str], artifacts: Path | None, filled: list[str]
) -> None:
    """filled: gets the name of each place as soon as it holds something for good"""
    home.path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # beside the home, so that one rename brings it in; inside where the home is a mounted
        # volume
        beside = home.path if os.path.ismount(home.path) else home.path.parent
        staged = stack.enter_context(staging_folder(beside))
        unpack(source, staged)
        _require_same_databases(staged, urls)
        (staged / "artifacts").mkdir(exist_ok=True)
        if artifacts:
            artifacts.mkdir(parents=True, exist_ok=True)
            copies = stack.enter_context(staging_folder(artifacts))
            shutil.copytree(staged / "artifacts", copies, symlinks=True, dirs_exist_ok=True)
        for name, url in urls.items():
            dump = staged / "databases" / f"{name}.dump"
            # --dbname= with nothing: connect as the environment says, instead of printing a script
            run_postgres(
                ["pg_restore", "--no-owner", "--single-transaction", "--dbname=", str(dump)], url
            )
            filled.append(f"the database {name}")
        if artifacts:
            filled.append(str(artifacts))
            _move_entries(copies, artifacts)
        _move_in(staged / "home", home.path)


@contextmanager
def staging_folder(place: Path) -> Iterator[Path]:
    """A folder to fill, gone at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=place) as folder,
        FileLock(Path(folder, "lock")),
    ):
        staged = Path(folder, "staged")
        staged.mkdir()
        yield staged


def _clear_leftovers(places: list[Path]) -> None:
    """Remove the staging folders that nobody fills any more."""
    for folder in [folder for place in places for folder in place.glob(f"{STAGING_PREFIX}*")]:
        with suppress(Timeout), FileLock(folder / "lock", blocking=False):
            shutil.rmtree(folder)


def _require_empty(folders: list[Path], urls: dict[str, str]) -> None:
    for folder in folders:
        if folder.exists() and any(folder.iterdir()):
            raise BackupError(
                f"{folder} is not empty; restore into an empty place and move it where it belongs"
            )
    for name, url in urls.items():
        if run_postgres(["psql", "-At", "-c", TABLES], url).strip() != "0":
            raise BackupError(f"the database {name} is not empty; restore into a new one")


def _require_same_databases(staged: Path, urls: dict[str, str]) -> None:
    held = {path.stem for path in (staged / "databases").glob("*.dump")}
    if held != set(urls):
        raise BackupError(
            f"the backup holds PostgreSQL databases {sorted(held)}, the environment names "
            f"{sorted(urls)}; set DAGSTER_POSTGRES_URL and MLFLOW_BACKEND_STORE_URI as they were"
        )


def _move_in(staged: Path, home: Path) -> None:
    if not os.path.ismount(home):
        if home.exists():
            home.rmdir()
        os.rename(staged, home)
    else:
        _move_entries(staged, home)


def _move_entries(staged: Path, place: Path) -> None:
    for entry in sorted(staged.iterdir()):
        os.rename(entry, place / entry.name)
