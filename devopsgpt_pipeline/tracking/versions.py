"""A checkpoint becomes a model version: data only, hashed file by file, its alias set last."""

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from devopsgpt_model.atomic import file_sha256, write_json
from devopsgpt_pipeline.tracking.client import CHALLENGER, MODEL_NAME

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
DESCRIPTION = (
    "GPT-2 fine-tuned on books about running services reliably. What is served: the alias "
    "`champion`."
)


def publish(
    client: MlflowClient,
    checkpoint: Path,
    run_id: str,
    tags: dict[str, str],
    description: str,
    documents: Mapping[str, str] | None = None,
) -> str:
    """Upload a checkpoint folder and register it as the challenger.

    run_id: MLflow run that trained it; tags: of the model version; documents: texts to lie beside
    the weights, by name
    returns: the new version's number
    raises: MlflowException or OSError where a call fails; no alias moves then
    """
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name=MODEL_NAME, source_run_id=run_id, model_type="gpt2", tags=tags
    )
    try:
        with tempfile.TemporaryDirectory(prefix="devopsgpt-publish-") as staging:
            stage_artifact(Path(staging), checkpoint, run_id, logged.model_id, documents or {})
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


def stage_artifact(
    staging: Path, checkpoint: Path, run_id: str, model_id: str, documents: Mapping[str, str]
) -> None:
    """Lay out what a version holds: MLmodel, manifest.json, the checkpoint and its documents under
    model/. The tokenizer stands again where MLflow's flavor looks for it; the service does not
    read it there."""
    shutil.copytree(checkpoint.resolve(), staging / "model")
    for name, text in documents.items():
        (staging / "model" / name).write_text(text, encoding="utf-8")
    files = {
        f"model/{path.name}": {"sha256": file_sha256(path), "size": path.stat().st_size}
        for path in sorted((staging / "model").iterdir())
    }
    write_json(staging / "manifest.json", {"files": files})
    components = staging / "components" / "tokenizer"
    components.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copy(staging / "model" / name, components)
    _write_mlmodel(staging / "MLmodel", run_id, model_id)


def _write_mlmodel(path: Path, run_id: str, model_id: str) -> None:
    """The model as MLflow's own flavors read it: `mlflow.transformers`, `mlflow.pyfunc` and
    `mlflow models serve` find the checkpoint under model/ and the tokenizer under components/."""
    text = Schema([ColSpec(DataType.string)])
    defaults = [
        ParamSpec("max_new_tokens", DataType.long, 40),
        ParamSpec("do_sample", DataType.boolean, True),
        ParamSpec("temperature", DataType.double, 0.8),
    ]
    transformers = {
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "pipeline_model_type": "GPT2LMHeadModel",
        "tokenizer_type": "GPT2Tokenizer",
        "model_binary": "model",
        "components": ["tokenizer"],
        "framework": "pt",
        "torch_dtype": "torch.float32",
        "source_model_name": MODEL_NAME,
    }
    flavors = {
        MODEL_NAME: {"format": "huggingface-gpt2", "data": "model"},
        "transformers": transformers,
        "python_function": {
            "loader_module": "mlflow.transformers",
            "python_version": platform.python_version(),
        },
    }
    Model(
        artifact_path=MODEL_NAME,
        run_id=run_id,
        model_uuid=model_id,
        signature=ModelSignature(inputs=text, outputs=text, params=ParamSchema(defaults)),
        flavors=flavors,
    ).save(str(path))


def checkpoint_sha256(checkpoint: Path) -> str:
    """One hash over the weights and the tokenizer: two checkpoints with the same one answer
    alike."""
    names = ("model.safetensors", "config.json", "tokenizer.json")
    return hashlib.sha256(
        "".join(file_sha256(checkpoint / name) for name in names).encode()
    ).hexdigest()


def fetch_version(client: MlflowClient, version: str, folder: Path) -> Path:
    """Download a version's checkpoint and check it against its manifest. returns: the checkpoint
    folder

    raises: ValueError for a file that is missing or not what the manifest says
    """
    try:
        root = Path(
            download_artifacts(
                _location(client, version), dst_path=str(folder), tracking_uri=client.tracking_uri
            )
        )
    except OSError as error:  # a folder of the registry that is gone
        raise _damaged(version, f"its files cannot be read ({error})") from error
    _check_files(root, version)
    return root / "model"


def check_stored(client: MlflowClient, version: str, artifacts: Path) -> None:
    """Check a version's files where an MLflow server on this machine keeps them. artifacts: its
    folder

    raises: ValueError for a file that is missing or not what the manifest says
    """
    _check_files(artifacts / _location(client, version).partition(":/")[2].lstrip("/"), version)


def _check_files(root: Path, version: str) -> None:
    try:
        files = json.loads((root / "manifest.json").read_text())["files"]
        hashes = {name: facts["sha256"] for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(version, f"manifest.json is missing or damaged ({error!r})") from error
    for name, sha256 in hashes.items():
        _check_file(root / name, name, sha256, version)


def fetch_document(client: MlflowClient, version: str, name: str) -> str | None:
    """A text that lies beside a version's weights; None where the version has none of this name.

    raises: ValueError for one that is missing or not what the manifest says
    """
    location = _location(client, version)
    with tempfile.TemporaryDirectory(prefix="devopsgpt-document-") as folder:

        def fetch(path: str) -> Path:
            return Path(
                download_artifacts(
                    f"{location}/{path}", dst_path=folder, tracking_uri=client.tracking_uri
                )
            )

        facts = json.loads(fetch("manifest.json").read_text())["files"].get(f"model/{name}")
        if facts is None:
            return None
        document = fetch(f"model/{name}")
        _check_file(document, f"model/{name}", facts["sha256"], version)
        return document.read_text(encoding="utf-8")


def _location(client: MlflowClient, version: str) -> str:
    model_id = client.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    return str(client.get_logged_model(model_id).artifact_location)


def _check_file(path: Path, name: str, sha256: str, version: str) -> None:
    if not path.is_file() or file_sha256(path) != sha256:
        raise _damaged(version, f"{name} is missing or damaged in the registry")


def _damaged(version: str, what: str) -> ValueError:
    return ValueError(
        f"version {version} of {MODEL_NAME}: {what}; restore a backup, or let another version be "
        "served (`devopsgpt promote`)"
    )


def _ensure_registered_model(client: MlflowClient) -> None:
    try:
        client.create_registered_model(MODEL_NAME, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
