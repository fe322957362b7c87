"""From settings to a training job: initial weights found, a folder to work in, an MLflow run to report to."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from devopsgpt_model.config import GPT2_SIZES, TrainingConfig
from devopsgpt_model.folders import write_json
from devopsgpt_model.job import TrainingJob
from devopsgpt_model.token_bins import read_meta
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.lineage import lineage_of_training
from devopsgpt_pipeline.registry.ancestry import LINEAGE_FILE
from devopsgpt_pipeline.registry.publish import checkpoint_sha256, fetch_version
from devopsgpt_pipeline.registry.runs import start_run
from devopsgpt_pipeline.registry.tracking import CHAMPION, MODEL_NAME, version_of_alias

if TYPE_CHECKING:
    from mlflow import MlflowClient


def prepare_job(
    home: Home,
    client: "MlflowClient",
    config: TrainingConfig,
    dataset: str,
    code_version: str,
    tags: dict[str, str],
) -> TrainingJob:
    """The training job for these settings and this data.

    The same settings and data lead to the same folder: a job that was cut short goes on there, in its MLflow run.
    tags: of that run, dagster_run_id and git_commit among them
    raises: ValueError for initial weights that cannot be found
    """
    bins = home.tokens / dataset
    meta = read_meta(bins)
    init = initial_checkpoint(home, client, config.init_from)
    facts = {"config": asdict(config), "data": meta.data_version, "code": code_version}
    facts["init"] = checkpoint_sha256(init) if init else "scratch"
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    out = home.training / name
    out.mkdir(parents=True, exist_ok=True)
    run_file = out / "run.json"
    if not run_file.exists():
        source = {"name": dataset, "digest": meta.data_version, "source": str(bins)}
        params = asdict(config) | {"tokenizer": meta.tokenizer, "vocab_size": meta.vocab_size}
        run_name = f"{config.init_from}-{dataset}-{name[:6]}"
        tags = tags | {"dataset": dataset, "data_version": meta.data_version, "init_from": config.init_from}
        write_json(run_file, {"run_id": start_run(client, run_name, params, tags, source)})
    run_id = json.loads(run_file.read_text())["run_id"]
    code = {"version": code_version, "git_commit": tags["git_commit"]}
    runs = {"mlflow": run_id, "dagster": {"finetuned_checkpoint": tags["dagster_run_id"]}}
    write_json(out / LINEAGE_FILE, lineage_of_training(meta, config, init, code, runs))
    return TrainingJob(
        config=config,
        bins=bins,
        out=out,
        init_checkpoint=init,
        data_version=meta.data_version,
        code_version=code_version,
        mlflow_tracking_uri=client.tracking_uri,
        mlflow_run_id=run_id,
    )


def initial_checkpoint(home: Home, client: "MlflowClient", init_from: str) -> Path | None:
    """The folder with the initial weights; None for scratch.

    raises: ValueError for a name that is no size, no alias and no folder, with what to do
    """
    if init_from == "scratch":
        return None
    if init_from in GPT2_SIZES:
        return _existing(home.pretrained / init_from, f"materialize pretrained_gpt2 for {init_from} first")
    if init_from == CHAMPION:
        version = version_of_alias(client, CHAMPION)
        if version is None:
            raise ValueError(f"init_from champion: {MODEL_NAME} has no champion yet; start from scratch or gpt2")
        folder = home.training / f"champion-{version}"
        return folder / "model" if folder.exists() else fetch_version(client, version, folder)
    known = ", ".join(["scratch", CHAMPION, *GPT2_SIZES])
    return _existing(Path(init_from), f"init_from must be a checkpoint folder or one of {known}")


def _existing(folder: Path, remedy: str) -> Path:
    if not (folder / "config.json").exists():
        raise ValueError(f"no checkpoint at {folder}: {remedy}")
    return folder.resolve()
