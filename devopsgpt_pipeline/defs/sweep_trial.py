"""One trial of a sweep: trained like the asset, kept in its working folder; the sweep decides what
becomes of it."""

import json

import dagster as dg

from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.defs.training import CODE_VERSION, Progress
from devopsgpt_pipeline.defs.training_settings import settings_of, training_run_config
from devopsgpt_pipeline.home import BOOKS
from devopsgpt_pipeline.profiles import Profile
from devopsgpt_pipeline.tracking.runs import PARENT_TAG, git_commit, log_final, run_status
from devopsgpt_pipeline.training.launcher import Launcher
from devopsgpt_pipeline.training.prepare import training_job

TRIAL_TAG = "devopsgpt/trial"  # of a Dagster run and of a child run: which trial of the grid it is
FOLDER_TAG = "devopsgpt/folder"  # of a child run: its working folder, under the home's `training`


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
        client = mlflow.client()
        run = context.run
        family = {TRIAL_TAG: run.tags[TRIAL_TAG], PARENT_TAG: run.tags[PARENT_TAG]}
        tags = {"dagster_run_id": run.run_id, "git_commit": git_commit(), "kind": "finetune"}
        settings, dataset = settings_of(config)
        with training_job(home.folders, client, settings, dataset, CODE_VERSION, tags) as job:
            # one that began outside the sweep joins it
            for key, value in {FOLDER_TAG: job.out.name, **family}.items():
                client.set_tag(job.mlflow_run_id, key, value)
            with run_status(client, job.mlflow_run_id):
                launcher.train(context, job, Progress(context))
                facts = json.loads((job.out / "result.json").read_text())
                log_final(
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
