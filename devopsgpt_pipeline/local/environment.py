"""What the processes of one home share through their environment."""

import os
import shutil
from pathlib import Path

from devopsgpt_pipeline.home import Home

CHECKOUT = Path(__file__).resolve().parents[2]


def configure(home: Home, tracking_uri: str, ui_url: str) -> None:
    """Point this process and its children at a home and its MLflow server; lay out DAGSTER_HOME."""
    shutil.copyfile(CHECKOUT / "dagster.yaml", home.dagster / "dagster.yaml")
    os.environ |= {
        "DEVOPSGPT_HOME": str(home.path),
        "DAGSTER_HOME": str(home.dagster),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "DEVOPSGPT_MLFLOW_UI_URL": ui_url,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    # Threads of torch that spin while they wait starve each other as soon as two processes compute:
    # see docs/decisions.md. Whoever has a machine to himself may set it to `active`.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def workspace_file() -> Path:
    """The workspace.yaml of the checkout."""
    return CHECKOUT / "workspace.yaml"
