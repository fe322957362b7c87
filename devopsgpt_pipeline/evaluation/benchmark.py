"""`devopsgpt benchmark`: standard benchmarks through EleutherAI's lm-evaluation-harness, beside
published values."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from devopsgpt_model.device import choose_device
from devopsgpt_pipeline.evaluation.benchmark_data import LocalTask, local_task
from devopsgpt_pipeline.evaluation.named_models import NamedModel, find_model
from devopsgpt_pipeline.evaluation.published import BENCHMARKS
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.download import Say
from devopsgpt_pipeline.tracking.client import connect
from devopsgpt_pipeline.tracking.runs import log_final


class BenchmarkError(RuntimeError):
    """A benchmark that cannot be run, or that did not end well."""


def benchmark_model(
    home: Home,
    tracking_uri: str | None,
    name: str,
    tasks: list[str],
    data: Path | None,
    limit: int | None,
    batch_size: int,
    say: Say,
) -> list[dict[str, Any]]:
    """Run the harness's tasks on a model and log what they measure to the model's MLflow run.

    data: a folder with local copies, for which nothing is fetched; limit: the first rows of each
    task, not logged
    returns: rows of the table
    raises: BenchmarkError; NoLocalCopy; as find_model
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise BenchmarkError(
            "the benchmarks need the extra lm-eval: pip install -c constraints.txt -e '.[lm-eval]'"
        )
    client = connect(tracking_uri) if tracking_uri else None
    with tempfile.TemporaryDirectory(prefix="devopsgpt-benchmark-") as scratch:
        local = {task: local_task(task, data, Path(scratch)) for task in tasks} if data else {}
        model = find_model(home, client, name, Path(scratch))
        job = {
            "checkpoint": str(model.folder.resolve()),
            "tasks": tasks,
            "local": {task: one.dataset for task, one in local.items()},
            "limit": limit,
            "batch_size": batch_size,
            "device": str(choose_device()),
        }
        found = _run_harness(job, Path(scratch))
    # a group of the harness, as lambada, gives several tasks
    metrics = {
        key: value
        for task, one in found["results"].items()
        for key, value in _metrics(task, one).items()
    }
    _log(client, model, metrics, local, limit, say)
    return [_row(model.name, key, value, found["samples"]) for key, value in metrics.items()]


def _run_harness(job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    (scratch / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "devopsgpt_pipeline.evaluation.harness"]
    paths = [str(scratch / name) for name in ("job.json", "results.json")]
    nothing_fetched = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(scratch / "cache"),
    }
    environment = (
        os.environ | {"TOKENIZERS_PARALLELISM": "false"} | (nothing_fetched if job["local"] else {})
    )
    answer = subprocess.run([*command, *paths], env=environment, stderr=subprocess.PIPE, text=True)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines()[-5:] or [f"status {answer.returncode}"]
        raise BenchmarkError("lm-evaluation-harness failed; it said last:\n  " + "\n  ".join(lines))
    results: dict[str, Any] = json.loads((scratch / "results.json").read_text())
    return results


def _metrics(task: str, result: dict[str, Any]) -> dict[str, float]:
    """The harness's "acc,none" as MLflow shows it, beside val_loss/books: acc/lambada_openai"""
    pairs = ((key.partition(",")[0], value) for key, value in result.items() if "," in key)
    return {
        f"{name}/{task}": float(value) for name, value in pairs if isinstance(value, int | float)
    }


def _log(
    client: "MlflowClient | None",
    model: NamedModel,
    metrics: dict[str, float],
    local: dict[str, LocalTask],
    limit: int | None,
    say: Say,
) -> None:
    if limit is not None:
        say(f"the first {limit} rows of each task only: a look, which is not logged")
    elif client is None or model.run_id is None:
        say(f"{model.name} has no MLflow run here; its numbers are only printed")
    else:
        log_final(client, model.run_id, metrics, model.step)
        for task, one in local.items():
            client.set_tag(model.run_id, f"data_version/{task}", one.data_version)


def _row(model: str, key: str, value: float, samples: dict[str, int]) -> dict[str, Any]:
    metric, _, task = key.partition("/")
    published = BENCHMARKS.get(model, {}).get(key)
    shown = "-" if published is None else f"{published:g}"
    return {"model": model, "task": task, "metric": metric, "value": value, "published": shown,
            "samples": samples.get(task, 0)}  # fmt: skip
