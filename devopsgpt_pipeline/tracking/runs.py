"""Training runs in MLflow: fine-tunes and baselines in one experiment, named so that its own tools
compare them."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from devopsgpt_pipeline.tracking.client import experiment_id

if TYPE_CHECKING:
    from devopsgpt_model.tokenizer import Tokenizer

PARENT_TAG = "mlflow.parentRunId"  # MLflow's own: its table nests children under their parent
TRIAL_TAG = "devopsgpt/trial"  # of a Dagster run and of a child run: which trial of a sweep it is
FOLDER_TAG = "devopsgpt/folder"  # of a child run: its working folder, under the home's `training`


def start_run(
    client: MlflowClient,
    name: str,
    params: dict[str, Any],
    tags: dict[str, str],
    dataset: dict[str, str],
) -> str:
    """A new run with its settings and its data. dataset: name, digest, source

    returns: its id
    """
    run = client.create_run(experiment_id(client), run_name=name, tags=tags)
    client.log_batch(
        run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()]
    )
    log_dataset(client, run.info.run_id, dataset, "training")
    return str(run.info.run_id)


def log_dataset(client: MlflowClient, run_id: str, dataset: dict[str, str], context: str) -> None:
    """What a run read, for MLflow's column and filter of datasets. dataset: name, digest, source

    context: training or evaluation
    """
    entity = Dataset(
        dataset["name"], dataset["digest"], source_type="local", source=dataset["source"]
    )
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def log_final(client: MlflowClient, run_id: str, metrics: dict[str, float], step: int) -> None:
    """Metrics of the finished run, at the step of its best checkpoint."""
    now = int(time.time() * 1000)
    client.log_batch(
        run_id, metrics=[Metric(key, value, now, step) for key, value in metrics.items()]
    )


def baseline_run(
    client: MlflowClient, model: str, parameters: int, tokenizer: "Tokenizer | None" = None
) -> str:
    """The run of a pretrained model, one for all datasets, so that it is one row of the table.

    tokenizer: named in the run's params, as in a fine-tune's
    returns: its id
    """
    experiment = experiment_id(client)
    found = client.search_runs(
        [experiment], f"tags.kind = 'baseline' and tags.model_size = '{model}'", max_results=1
    )
    if found:
        return str(found[0].info.run_id)
    tags = {"kind": "baseline", "model_size": model, "init_from": model, "git_commit": git_commit()}
    run_id = str(
        client.create_run(experiment, run_name=f"{model} as released", tags=tags).info.run_id
    )
    params = {"init_from": model}
    if tokenizer is not None:
        params |= {"tokenizer": tokenizer.name, "vocab_size": str(tokenizer.vocab_size)}
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
    log_final(client, run_id, {"parameters": parameters}, step=0)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def find_leaderboard_run(client: MlflowClient) -> str | None:
    """The one run that carries the leaderboard's files, if it is there. returns: its id"""
    found = client.search_runs([experiment_id(client)], "tags.kind = 'leaderboard'", max_results=1)
    return str(found[0].info.run_id) if found else None


def leaderboard_run(client: MlflowClient) -> str:
    """The one run that carries the leaderboard's files. returns: its id"""
    if found := find_leaderboard_run(client):
        return found
    run = client.create_run(
        experiment_id(client), run_name="leaderboard", tags={"kind": "leaderboard"}
    )
    run_id = str(run.info.run_id)
    client.set_terminated(run_id, "FINISHED")
    return run_id


@contextmanager
def run_status(client: MlflowClient, run_id: str) -> Iterator[None]:
    """RUNNING within the block, then FINISHED, or FAILED after an error, or KILLED after an
    interruption."""
    client.update_run(run_id, status="RUNNING")
    try:
        yield
    except BaseException as error:
        try:
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        except Exception as other:  # the block's own error is the one to hear of
            error.add_note(f"MLflow run {run_id} could not be marked as ended: {other}")
        raise
    client.set_terminated(run_id, "FINISHED")


def log_bytes(client: MlflowClient, run_id: str, name: str, content: bytes) -> None:
    """An artifact of a run, from memory."""
    with tempfile.TemporaryDirectory(prefix="devopsgpt-artifact-") as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        client.log_artifact(run_id, str(path))


def git_commit() -> str:
    """The commit of the code that runs, "unknown" outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()
