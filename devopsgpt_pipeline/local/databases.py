"""The addresses of the home's two SQLite databases, MLflow's and Dagster's.

SQLAlchemy decodes `%2F` in an address and cuts it at `?`, MLflow creates the folders of the address
as it is written, and Dagster writes its own without escaping. So MLflow is started inside its
folder and gets names that are relative to it; Dagster, in a home whose path needs it, gets a
storage that escapes.
"""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from devopsgpt_pipeline.home import Home

MLFLOW_DATABASE = "mlflow.db"
QUIET_S = 10.0  # without a write: nobody makes the database any more
MLFLOW_ADDRESSES = ["--backend-store-uri", f"sqlite:///{MLFLOW_DATABASE}"]
MLFLOW_ADDRESSES += ["--artifacts-destination", "artifacts"]
DAGSTER_STORAGE = """
# written by `devopsgpt`: the path of this home holds what Dagster would misread in an address
storage:
  custom:
    module: devopsgpt_pipeline.local.dagster_storage
    class: EscapingStorage
    config:
      base_dir: {env: DAGSTER_HOME}
"""


class DamagedDatabase(RuntimeError):
    """A database of the home that SQLite cannot read."""


def check_databases(home: Home) -> None:
    """Let SQLite look through each database that is there, before a server opens it.

    raises: DamagedDatabase, with the remedy; RuntimeError where SQLite cannot look
    """
    history = home.dagster / "history"
    lost = {
        home.mlflow / MLFLOW_DATABASE: "the runs and the registry",
        history / "runs.db": "Dagster's runs",
        history / "runs" / "index.db": "Dagster's memory of what was made",
        home.dagster / "schedules" / "schedules.db": "the schedules' ticks",
    }
    for path, what in lost.items():
        if path.exists() and (problem := _problem(path)):
            raise DamagedDatabase(
                f"the database {path} is damaged ({problem}); restore a backup into an empty home "
                f"(`devopsgpt restore`), or move it away and lose {what}"
            )


def clear_unfinished_mlflow(home: Home) -> None:
    """Remove MLflow's database where its first start was killed: MLflow cannot go on with one, and
    there is no experiment in it yet, not even its own first.

    One that somebody is still making is waited for.
    """
    path = home.mlflow / MLFLOW_DATABASE
    while path.exists() and not _has_experiments(path):
        before = path.stat().st_mtime_ns
        time.sleep(QUIET_S)
        if path.exists() and path.stat().st_mtime_ns == before and not _has_experiments(path):
            for each in home.mlflow.glob(f"{MLFLOW_DATABASE}*"):
                each.unlink()


def _has_experiments(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            return database.execute("SELECT count(*) FROM experiments").fetchone()[0] > 0
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)


def _problem(path: Path) -> str:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            answer = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:  # no room, no permission: not damage
        raise RuntimeError(f"the database {path} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if answer == "ok" else answer.replace("\n", " ")


def sqlite_address(folder: str, name: str) -> str:
    """SQLAlchemy's address of the database `name` in a folder, escaped."""
    return f"sqlite:///{quote(str(Path(folder).absolute() / f'{name}.db'))}"


def dagster_storage(folder: Path) -> str:
    """What dagster.yaml needs beyond ours for a DAGSTER_HOME in this folder; empty for most."""
    return DAGSTER_STORAGE if {"%", "?"} & set(str(folder)) else ""
