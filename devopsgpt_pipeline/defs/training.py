"""Fine-tuning: token bins to a checkpoint, in a process of its own; and one trial of a sweep.

The launchpad's settings derive from TrainingConfig, the one dataclass that declares them.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import time
from enum import Enum
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, create_model

from devopsgpt_model.atomic import atomic_folder
from devopsgpt_model.config import (
    CHOICES,
    GPT2_SIZES,
    TrainingConfig,
    field_docs,
    training_config,
)
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_model.training.report import read_metrics
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.datasets import TOKEN_BINS
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.home import BOOKS, Home
from devopsgpt_pipeline.profiles import Profile
from devopsgpt_pipeline.training.launcher import Context, Launcher

if TYPE_CHECKING:
    from mlflow import MlflowClient

CODE_VERSION = "1"
OBSERVE_EVERY_S = 5.0  # an observation is a row in Dagster's event log; a curve needs few


def training_run_config(defaults: TrainingConfig, dataset: str) -> type[dg.Config]:
    """A Dagster config class with every setting's type, unit and default, and the dataset to train
    on."""
    docs = field_docs(TrainingConfig)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(TrainingConfig):
        kind: Any = field.type
        if field.name in CHOICES:
            kind = _choice(field.name)
        default = kind(getattr(defaults, field.name))
        fields[field.name] = (kind, Field(default=default, description=docs[field.name]))
    fields["dataset"] = (
        str,
        Field(default=dataset, description="Token bins to train on: books or shakespeare."),
    )
    return create_model(
        "TrainingSettings", __base__=dg.Config, __doc__=TrainingConfig.__doc__, **fields
    )


def _choice(name: str) -> type[Enum]:
    """An enum of a setting's values: the launchpad offers them, and refuses others."""
    members: Any = [(value, value) for value in CHOICES[name]]
    return Enum(name, members)  # type: ignore[return-value]


def settings_of(config: dg.Config) -> tuple[TrainingConfig, str]:
    """What was set in the launchpad: training settings and dataset. raises: ValueError for a value
    out of range"""
    values = config.model_dump(mode="json")  # a choice as its plain value
    dataset = values.pop("dataset")
    return training_config(values), dataset


def build_finetuned_checkpoint(profile: Profile) -> dg.AssetsDefinition:
    """The asset, its launchpad filled with the profile's settings."""
    settings_class = training_run_config(profile.training, BOOKS)

    @dg.asset(
        deps=[TOKEN_BINS, *_pretrained(profile)],
        group_name="training",
        kinds={"pytorch", "mlflow"},
        owners=OWNERS,
        code_version=f"{CODE_VERSION}-{_digest(profile.training)}",
        pool="gpu",
    )
    def finetuned_checkpoint(
        context: dg.AssetExecutionContext,
        config: settings_class,  # type: ignore[valid-type]
        home: HomeResource,
        mlflow: MlflowResource,
        launcher: Launcher,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """GPT fine-tuned on the training chapters, in Hugging Face's layout: the best weights of
        the run."""
        from devopsgpt_pipeline.defs import pictures
        from devopsgpt_pipeline.tracking.runs import git_commit, log_bytes, run_status
        from devopsgpt_pipeline.training.prepare import training_job

        client = mlflow.client()
        tags = {
            "dagster_run_id": context.run.run_id,
            "git_commit": git_commit(),
            "kind": "finetune",
        }
        settings, dataset = settings_of(config)
        with training_job(home.folders, client, settings, dataset, CODE_VERSION, tags) as job:
            with run_status(client, job.mlflow_run_id):
                launcher.train(context, job, TrainingMonitor(context, context.asset_key))
                png = pictures.loss_curve(
                    read_metrics(job.out / "metrics.jsonl"), f"GPT on {dataset}"
                )
                log_bytes(client, job.mlflow_run_id, "loss_curve.png", png)
            return _keep(job, home.folders, mlflow, client, png)

    return finetuned_checkpoint


def _digest(config: TrainingConfig) -> str:
    """Changes with any default setting, so that the checkpoint is out of date then."""
    return hashlib.sha256(
        json.dumps(dataclasses.asdict(config), sort_keys=True).encode()
    ).hexdigest()[:8]


def _pretrained(profile: Profile) -> list[dg.AssetDep]:
    """The size that the profile starts from. Another one that the launchpad names must be
    materialized by hand."""
    size = profile.training.init_from
    if size not in GPT2_SIZES:
        return []
    return [
        dg.AssetDep(
            "pretrained_gpt2", partition_mapping=dg.SpecificPartitionsPartitionMapping([size])
        )
    ]


class TrainingMonitor:
    """Passes the trainer's reports on: a line for the log, now and then an observation for
    Dagster's charts."""

    def __init__(self, context: Context, asset: dg.AssetKey | None = None) -> None:
        """asset: whose observations they are; without one there are none"""
        self._context, self._asset = context, asset
        self._observed_at = 0.0
        self._val_loss = math.nan

    def __call__(self, message: dict[str, Any]) -> None:
        if "val_loss" in message:
            self._val_loss = message["val_loss"]
            self._observe(message["step"], {"val_loss": self._val_loss})
            return
        self._context.log.info(self._line(message))
        if time.monotonic() - self._observed_at > OBSERVE_EVERY_S:
            self._observed_at = time.monotonic()
            keys = ("train_loss", "learning_rate", "tokens_per_second")
            self._observe(message["step"], {key: message[key] for key in keys})

    def _observe(self, step: int, values: dict[str, float]) -> None:
        if self._asset:
            self._context.log_event(
                dg.AssetObservation(self._asset, metadata={"step": step, **values})
            )

    def _line(self, message: dict[str, Any]) -> str:
        minutes, seconds = divmod(round(message["seconds_left"]), 60)
        return (
            f"step {message['step']:,}/{message['max_steps']:,}  train_loss "
            f"{message['train_loss']:.3f}  "
            f"val_loss {self._val_loss:.3f}  {message['tokens_per_second']:,.0f} tokens/s  "
            f"{minutes}:{seconds:02d} left"
        )


def _keep(
    job: TrainingJob, home: Home, mlflow: MlflowResource, client: "MlflowClient", png: bytes
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Take the finished checkpoint in, and clear the working folder: a later run with these
    settings starts anew."""
    from devopsgpt_pipeline.defs.pictures import as_markdown
    from devopsgpt_pipeline.tracking.versions import checkpoint_sha256
    from devopsgpt_pipeline.training.lineage import CURVE_FILE, LINEAGE_FILE

    with atomic_folder(home.finetuned) as staging:
        shutil.copytree(job.out / "checkpoint", staging, dirs_exist_ok=True)
        shutil.copy(job.out / LINEAGE_FILE, staging)
        (staging / CURVE_FILE).write_bytes(png)
    facts = json.loads((job.out / "result.json").read_text())
    shutil.rmtree(job.out)
    digest = checkpoint_sha256(home.finetuned)
    experiment = client.get_run(job.mlflow_run_id).info.experiment_id
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest[:16]),
        metadata={
            "val_loss": facts["val_loss"],
            "start_val_loss": facts["start_val_loss"],
            "best_step": facts["step"],
            "steps_trained": facts["steps_trained"],
            "tokens_trained": facts["tokens_trained"],
            "seconds": facts["seconds"],
            "device": f"{facts['device']}, {facts['dtype']}",
            "loss_curve": dg.MetadataValue.md(
                as_markdown(png, "train_loss and val_loss against the step")
            ),
            "settings": dg.MetadataValue.json(facts["config"]),
            "mlflow_run": mlflow.run_link(experiment, job.mlflow_run_id),
            "checkpoint": dg.MetadataValue.path(str(home.finetuned)),
            "checkpoint_sha256": digest,
        },
    )


def build_sweep_trial(profile: Profile) -> dg.JobDefinition:
    """The job; its run's tags name the sweep's MLflow run and the trial."""
    settings_class = training_run_config(profile.training, BOOKS)

    @dg.op(pool="gpu")
    def train_trial(
        context: dg.OpExecutionContext,
        config: settings_class,  # type: ignore[valid-type]
        home: HomeResource,
        mlflow: MlflowResource,
        launcher: Launcher,
    ) -> float:
        """Train with these settings. returns: the best val_loss"""
        from devopsgpt_pipeline.tracking import runs
        from devopsgpt_pipeline.training.prepare import training_job

        client = mlflow.client()
        run = context.run
        family = {tag: run.tags[tag] for tag in (runs.TRIAL_TAG, runs.PARENT_TAG)}
        tags = {"dagster_run_id": run.run_id, "git_commit": runs.git_commit(), "kind": "finetune"}
        settings, dataset = settings_of(config)
        with training_job(home.folders, client, settings, dataset, CODE_VERSION, tags) as job:
            # one that began outside the sweep joins it
            for key, value in {runs.FOLDER_TAG: job.out.name, **family}.items():
                client.set_tag(job.mlflow_run_id, key, value)
            with runs.run_status(client, job.mlflow_run_id):
                launcher.train(context, job, TrainingMonitor(context))
                facts = json.loads((job.out / "result.json").read_text())
                runs.log_final(
                    client, job.mlflow_run_id, {"best_val_loss": facts["val_loss"]}, facts["step"]
                )
            return float(facts["val_loss"])

    @dg.job(
        name="sweep_trial",
        description="One trial of `devopsgpt finetune --sweep`, which launches it.",
    )
    def sweep_trial() -> None:
        train_trial()

    return sweep_trial
