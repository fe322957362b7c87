"""A model by the name that a person gives it: a size of GPT-2, a folder, a version of the registry,
an MLflow run."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from devopsgpt_model.checkpoint import Checkpoint, load_checkpoint
from devopsgpt_model.device import choose_device
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.pretrained import PRETRAINED, fetch_pretrained
from devopsgpt_pipeline.tracking.client import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    PREVIOUS,
    version_of_alias,
)
from devopsgpt_pipeline.tracking.runs import baseline_run
from devopsgpt_pipeline.tracking.versions import fetch_version

ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)
KNOWN = (
    f"{', '.join(PRETRAINED)}, a checkpoint folder, a version or alias of the registered model, or "
    "the id of "
    "the MLflow run that trained it"
)


@dataclass(frozen=True)
class NamedModel:
    """A model at hand. run_id: of the MLflow run that its measurements belong to; None: it has
    none"""

    name: str
    folder: Path
    checkpoint: Checkpoint
    run_id: str | None

    @property
    def step(self) -> int:
        """The optimizer step of its weights, 0 for a baseline."""
        step: Any = self.checkpoint.training.get("step", 0)
        return int(step)


def needs_mlflow(name: str) -> bool:
    """Whether a model of this name is found, or its measurements are kept, in MLflow."""
    return name in PRETRAINED or not Path(name).is_dir() or bool(_trained_in(Path(name)))


def find_model(home: Home, client: "MlflowClient | None", name: str, scratch: Path) -> NamedModel:
    """Find, and fetch where it is not here, the model that a person names. scratch: a folder for
    what is fetched

    client: None where `needs_mlflow` says no
    raises: ValueError for a name that is nothing; PretrainedUnavailable; CheckpointError
    """
    if client is None or Path(name).is_dir():
        folder = Path(name)
        return NamedModel(
            folder.name, folder, _load(folder), _known_run(client, _trained_in(folder))
        )
    if name in PRETRAINED:
        fetch_pretrained(name, home.pretrained / name)
        checkpoint = _load(home.pretrained / name)
        run_id = baseline_run(
            client, name, checkpoint.model.config.parameter_count, checkpoint.tokenizer
        )
        return NamedModel(name, home.pretrained / name, checkpoint, run_id)
    version = _version_named(client, name)
    if version is None:
        return _newest_of_run(home, client, name)
    folder = fetch_version(client, version, scratch / f"version-{version}")
    return NamedModel(
        f"version {version}", folder, _load(folder), _known_run(client, _trained_in(folder))
    )


def _version_named(client: MlflowClient, name: str) -> str | None:
    """A version's number, of a number, an alias, or a run whose model was registered."""
    if name in ALIASES:
        version = version_of_alias(client, name)
        if version is None:
            raise ValueError(f"{MODEL_NAME} has no {name} yet")
        return version
    if re.fullmatch(r"\d{1,9}", name):
        if not client.search_model_versions(f"name = '{MODEL_NAME}' and version_number = {name}"):
            raise ValueError(f"{MODEL_NAME} has no version {name}")
        return name
    if not re.fullmatch(r"[0-9a-f]{32}", name):
        raise ValueError(f"no model is named {name!r}; name one of {KNOWN}")
    versions = client.search_model_versions(f"name = '{MODEL_NAME}' and run_id = '{name}'")
    return str(max(int(version.version) for version in versions)) if versions else None


def _newest_of_run(home: Home, client: MlflowClient, run_id: str) -> NamedModel:
    if not home.finetuned.exists() or home.finetuned_facts().get("mlflow_run_id") != run_id:
        raise ValueError(
            f"no checkpoint is kept of MLflow run {run_id}: no version was registered from it, and "
            "the newest "
            "fine-tuned checkpoint is another run's"
        )
    return NamedModel(
        f"run {run_id[:6]}", home.finetuned, _load(home.finetuned), _known_run(client, run_id)
    )


def _known_run(client: "MlflowClient | None", run_id: str) -> str | None:
    """The run, where this MLflow has it: a checkpoint may come from elsewhere."""
    if client is None or not run_id:
        return None
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _trained_in(folder: Path) -> str:
    """The MLflow run that a checkpoint's training.json names; empty where none is named."""
    path = folder / "training.json"
    return str(json.loads(path.read_text()).get("mlflow_run_id", "")) if path.exists() else ""


def _load(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, str(choose_device()))
