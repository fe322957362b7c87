"""The addresses of the home's two SQLite databases, MLflow's and Dagster's.

SQLAlchemy decodes `%2F` in an address and cuts it at `?`, MLflow creates the folders of the address
as it is written, and Dagster writes its own without escaping. So MLflow is started inside its
folder and gets names that are relative to it; Dagster, in a home whose path needs it, gets a
storage that escapes.
"""

from pathlib import Path
from urllib.parse import quote

MLFLOW_DATABASE = "mlflow.db"
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


def sqlite_address(folder: str, name: str) -> str:
    """SQLAlchemy's address of the database `name` in a folder, escaped."""
    return f"sqlite:///{quote(str(Path(folder).absolute() / f'{name}.db'))}"


def dagster_storage(folder: Path) -> str:
    """What dagster.yaml needs beyond ours for a DAGSTER_HOME in this folder; empty for most."""
    return DAGSTER_STORAGE if {"%", "?"} & set(str(folder)) else ""
