"""A checkpoint becomes a model version: data only, hashed file by file, its alias set last."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from devopsgpt_model.folders import write_json
from devopsgpt_pipeline.registry.tracking import CHALLENGER, MODEL_NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient

DESCRIPTION = "GPT-2 fine-tuned on books about running services reliably. What is served: the alias `champion`."


def publish(client: "MlflowClient", checkpoint: Path, run_id: str, tags: dict[str, str], description: str) -> str:
    """Upload a checkpoint folder and register it as the challenger.

    run_id: MLflow run that trained it; tags: of the model version
    returns: the new version's number
    raises: MlflowException or OSError where a call fails; no alias moves then
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name=MODEL_NAME, source_run_id=run_id, model_type="gpt2", tags=tags
    )
    try:
        with tempfile.TemporaryDirectory(prefix="devopsgpt-publish-") as staging:
            stage_artifact(Path(staging), checkpoint, run_id, logged.model_id)
            client.log_model_artifacts(logged.model_id, staging)
    except BaseException as error:
        try:
            client.finalize_logged_model(logged.model_id, "FAILED")
        except Exception as other:  # the upload's own error is the one to hear of
            error.add_note(f"logged model {logged.model_id} could not be marked as failed: {other}")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _ensure_registered_model(client)
    version = client.create_model_version(
        MODEL_NAME,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        tags=tags,
        description=description,
        model_id=logged.model_id,
        await_creation_for=0,
    )
    client.set_registered_model_alias(MODEL_NAME, CHALLENGER, version.version)
    return str(version.version)


def stage_artifact(staging: Path, checkpoint: Path, run_id: str, model_id: str) -> None:
    """Lay out what a version holds: MLmodel, manifest.json and the checkpoint under model/."""
    shutil.copytree(checkpoint.resolve(), staging / "model")
    files = {
        f"model/{path.name}": {"sha256": file_sha256(path), "size": path.stat().st_size}
        for path in sorted((staging / "model").iterdir())
    }
    write_json(staging / "manifest.json", {"files": files})
    _write_mlmodel(staging / "MLmodel", run_id, model_id)


def _write_mlmodel(path: Path, run_id: str, model_id: str) -> None:
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.long, "max_tokens", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "text")]),
    )
    flavor = {"format": "huggingface-gpt2", "data": "model"}
    Model(
        artifact_path=MODEL_NAME,
        run_id=run_id,
        model_uuid=model_id,
        signature=signature,
        flavors={MODEL_NAME: flavor},
    ).save(str(path))


def checkpoint_sha256(checkpoint: Path) -> str:
    """One hash over the weights and the tokenizer: two checkpoints with the same one answer alike."""
    names = ("model.safetensors", "config.json", "tokenizer.json")
    return hashlib.sha256("".join(file_sha256(checkpoint / name) for name in names).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_version(client: "MlflowClient", version: str, folder: Path) -> Path:
    """Download a version's checkpoint and check it against its manifest. returns: the checkpoint folder

    raises: ValueError for a file that is missing or not what the manifest says
    """
    from mlflow.artifacts import download_artifacts

    model_id = client.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    location = client.get_logged_model(model_id).artifact_location
    root = Path(download_artifacts(location, dst_path=str(folder), tracking_uri=client.tracking_uri))
    for name, facts in json.loads((root / "manifest.json").read_text())["files"].items():
        path = root / name
        if not path.is_file() or file_sha256(path) != facts["sha256"]:
            raise ValueError(f"version {version} of {MODEL_NAME}: {name} is missing or damaged in the registry")
    return root / "model"


def _ensure_registered_model(client: "MlflowClient") -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(MODEL_NAME, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
