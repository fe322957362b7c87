"""From settings to a training job: initial weights found, a folder to work in, an MLflow run to
report to."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from mlflow import MlflowClient

from devopsgpt_model.atomic import write_json
from devopsgpt_model.config import GPT2_SIZES, GPTConfig, TrainingConfig, model_size
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.models import HUB_NAME
from devopsgpt_pipeline.hub.pretrained import PRETRAINED, fetch_from_hub
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, version_of_alias
from devopsgpt_pipeline.tracking.runs import log_final, start_run
from devopsgpt_pipeline.tracking.versions import checkpoint_sha256, fetch_version
from devopsgpt_pipeline.training.lineage import lineage_of_training, write_lineage


@contextmanager
def training_job(
    home: Home,
    client: MlflowClient,
    config: TrainingConfig,
    dataset: str,
    code_version: str,
    tags: dict[str, str],
) -> Iterator[TrainingJob]:
    """The training job for these settings and this data.

    The same settings and data lead to the same folder: a job that was cut short goes on there, in
    its MLflow run. Who comes while another process is in the block waits: a run that Dagster gave
    up may have begun all the same.
    tags: of that run, dagster_run_id and git_commit among them
    raises: ValueError for initial weights that cannot be found, PretrainedUnavailable for a hub
    that does not answer
    """
    bins = TokenBins.open(home.bins(dataset))
    init = initial_checkpoint(home, client, config.init_from)
    facts = {"config": asdict(config), "data": bins.meta.data_version, "code": code_version}
    facts["init"] = checkpoint_sha256(init.folder) if init.folder else init.source
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    home.training.mkdir(parents=True, exist_ok=True)
    with FileLock(home.training / f".{name}.lock"):
        yield _prepare(client, config, bins, init, home.training / name, code_version, tags)


def _prepare(
    client: MlflowClient,
    config: TrainingConfig,
    bins: TokenBins,
    init: "Initial",
    out: Path,
    code_version: str,
    tags: dict[str, str],
) -> TrainingJob:
    """The folder with its MLflow run and the lineage in it, new or as it was left."""
    meta, dataset = bins.meta, bins.folder.name
    out.mkdir(exist_ok=True)
    run_file = out / "run.json"
    if not run_file.exists():
        source = {"name": dataset, "digest": meta.data_version, "source": str(bins.folder)}
        params = asdict(config) | {"tokenizer": meta.tokenizer, "vocab_size": meta.vocab_size}
        run_name = f"{config.init_from}-{dataset}-{out.name[:6]}"
        tags = tags | {
            "dataset": dataset,
            "data_version": meta.data_version,
            "init_from": config.init_from,
        }
        tags |= {"init_source": init.source, f"data_version/{dataset}": meta.data_version}
        parameters = _shape(config, init.folder, meta.vocab_size).parameter_count
        tags["model_size"] = model_size(config.init_from, parameters)
        run_id = start_run(client, run_name, params, tags, source)
        log_final(client, run_id, {"parameters": parameters}, step=0)
        write_json(run_file, {"run_id": run_id})
    run_id = json.loads(run_file.read_text())["run_id"]
    code = {"version": code_version, "git_commit": tags["git_commit"]}
    runs = {"mlflow": run_id, "dagster": {"finetuned_checkpoint": tags["dagster_run_id"]}}
    lineage = lineage_of_training(meta, config, init.folder, code, runs)
    lineage["initial_weights"]["source"] = init.source
    write_lineage(out, lineage)
    return TrainingJob(
        config=config,
        bins=bins.folder,
        out=out,
        init_checkpoint=init.folder,
        data_version=meta.data_version,
        code_version=code_version,
        mlflow_tracking_uri=client.tracking_uri,
        mlflow_run_id=run_id,
    )


def _shape(config: TrainingConfig, init: Path | None, vocab_size: int) -> GPTConfig:
    from devopsgpt_model.checkpoint import read_config

    if init is not None:
        return read_config(init)
    own = {name: getattr(config, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
    return GPTConfig(vocab_size=vocab_size, **own)


@dataclass(frozen=True)
class Initial:
    """Weights to start from. folder: None for scratch"""

    folder: Path | None

    source: str
    """What they are, exactly: a hub's repository with its commit, a version of the registry, a
    folder."""


def initial_checkpoint(home: Home, client: MlflowClient, init_from: str) -> Initial:
    """Find the initial weights, on the hub where nothing here has that name.

    raises: ValueError for a name that stands for nothing, PretrainedUnavailable for a hub that does
    not answer, both with what to do
    """
    if init_from == "scratch":
        return Initial(None, init_from)
    if init_from in GPT2_SIZES:
        folder = _existing(
            home.pretrained / init_from, f"materialize pretrained_gpt2 for {init_from} first"
        )
        return Initial(folder, str(PRETRAINED[init_from].model))
    if init_from == CHAMPION:
        return _champion(home, client)
    if Path(init_from).exists() or not HUB_NAME.fullmatch(init_from):
        known = ", ".join(["scratch", CHAMPION, *GPT2_SIZES])
        remedy = (
            "init_from must be a checkpoint folder, a model on the Hugging Face hub, or one of "
            f"{known}"
        )
        return Initial(_existing(Path(init_from), remedy), str(Path(init_from).resolve()))
    model, folder = fetch_from_hub(init_from, home.hub)
    return Initial(folder.resolve(), str(model))


def _champion(home: Home, client: MlflowClient) -> Initial:
    version = version_of_alias(client, CHAMPION)
    if version is None:
        raise ValueError(
            f"init_from champion: {MODEL_NAME} has no champion yet; start from scratch or gpt2"
        )
    folder = home.training / f"champion-{version}"
    if not folder.exists():
        home.training.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=f".{folder.name}.", dir=home.training, ignore_cleanup_errors=True
        ) as staging:
            fetched = fetch_version(client, version, Path(staging) / folder.name)
            fetched.parent.rename(folder)  # whole and checked, or not at all
    return Initial(folder / "model", f"{MODEL_NAME} version {version}")


def _existing(folder: Path, remedy: str) -> Path:
    if not (folder / "config.json").exists():
        raise ValueError(f"no checkpoint at {folder}: {remedy}")
    return folder.resolve()
