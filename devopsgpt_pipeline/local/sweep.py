"""A small grid of trainings: child runs of one MLflow run, which its own tools show side by side.

Each trial is a Dagster run of its own. What is trained stays in its working folder until the sweep
has ended, so a sweep that was cut short goes on where it was, and the best trial becomes the
fine-tuned checkpoint as it is.
"""

import dataclasses
import hashlib
import json
import shutil
from typing import Any

import dagster as dg
from mlflow import MlflowClient
from mlflow.entities import Run

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import chain
from devopsgpt_pipeline.local.grid import Outcome, Trial
from devopsgpt_pipeline.tracking.client import experiment_id
from devopsgpt_pipeline.tracking.runs import FOLDER_TAG, PARENT_TAG, TRIAL_TAG, git_commit

SWEEP_TAG = "devopsgpt/sweep"  # of a parent run: which grid on which data


class Sweep:
    """A grid on a dataset, with its parent run. raises: ValueError where there are no token bins"""

    def __init__(
        self,
        home: Home,
        client: MlflowClient,
        preset_name: str,
        trials: list[Trial],
        dataset: str,
    ) -> None:
        self.home, self.client, self.trials, self.dataset = home, client, trials, dataset
        facts = [
            TokenBins.open(home.bins(dataset)).meta.data_version,
            *(dataclasses.asdict(each.config) for each in trials),
        ]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.parent = self._unfinished(digest) or self._begin(digest, preset_name)

    def run(
        self, job: dg.JobDefinition, instance: dg.DagsterInstance, progress: Any
    ) -> list[Outcome]:
        """Train every trial that has not ended yet, then end the parent. returns: outcomes, the
        best first

        raises: ChainInterrupted where a person interrupts; ChainError where no trial has a val_loss
        """
        outcomes = []
        for number, trial in enumerate(self.trials, 1):
            progress.say(f"trial {number} of {len(self.trials)}: {trial.name}")
            try:
                if self._val_loss(trial) is None:
                    self._train(trial, job, instance, progress)
                outcomes.append(Outcome(trial, self.child(trial).data.metrics["best_val_loss"]))
                progress.say(f"  val_loss {outcomes[-1].val_loss:.4f}")
            except chain.ChainInterrupted:
                raise
            except chain.ChainError as error:
                outcomes.append(Outcome(trial, float("inf"), str(error)))
                progress.say(f"  {error}")
        outcomes.sort(key=lambda each: each.val_loss)
        self._end(outcomes)
        return outcomes

    def children(self) -> list[Run]:
        """The MLflow runs of the trials that have begun."""
        wanted = f"tags.`{PARENT_TAG}` = '{self.parent}'"
        return list(self.client.search_runs([experiment_id(self.client)], wanted, max_results=1000))

    def child(self, trial: Trial) -> Run:
        """The MLflow run of a trial that has begun."""
        return next(run for run in self.children() if run.data.tags[TRIAL_TAG] == trial.name)

    def _val_loss(self, trial: Trial) -> float | None:
        """Of a trial that came to its end before this sweep was cut short; else None."""
        runs = [run for run in self.children() if run.data.tags[TRIAL_TAG] == trial.name]
        ended = [run.data.metrics["best_val_loss"] for run in runs if run.info.status == "FINISHED"]
        return ended[0] if ended else None

    def settings(self, trial: Trial) -> dict[str, Any]:
        """A trial as a launchpad's settings."""
        return dataclasses.asdict(trial.config) | {"dataset": self.dataset}

    def _train(
        self, trial: Trial, job: dg.JobDefinition, instance: dg.DagsterInstance, progress: Any
    ) -> None:
        run_config = {"ops": {"train_trial": {"config": self.settings(trial)}}}
        tags = {PARENT_TAG: self.parent, TRIAL_TAG: trial.name}
        chain.materialize(job, instance, progress, run_config=run_config, tags=tags)

    def _unfinished(self, digest: str) -> str | None:
        """The parent of the same sweep that was cut short."""
        wanted = f"tags.`{SWEEP_TAG}` = '{digest}' and attributes.status = 'RUNNING'"
        found = self.client.search_runs([experiment_id(self.client)], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _begin(self, digest: str, preset_name: str) -> str:
        tags = {
            SWEEP_TAG: digest,
            "kind": "sweep",
            "dataset": self.dataset,
            "git_commit": git_commit(),
        }
        name = f"sweep-{preset_name}-{self.dataset}-{digest[:6]}"
        run = self.client.create_run(experiment_id(self.client), run_name=name, tags=tags)
        self.client.log_param(
            run.info.run_id, "trials", "; ".join(each.name for each in self.trials)[:6000]
        )
        return str(run.info.run_id)

    def _end(self, outcomes: list[Outcome]) -> None:
        """Say on the parent what came out, and clear every working folder but the best one's."""
        best = outcomes[0]
        if best.failure:
            self._clear([each.trial for each in outcomes])
            self.client.set_terminated(self.parent, "FAILED")
            raise chain.ChainError(
                f"no trial of the sweep came to its end; the first: {best.failure}"
            )
        self.client.log_metric(self.parent, "best_val_loss", best.val_loss)
        self.client.set_tag(self.parent, "best_trial", best.trial.name)
        self.client.set_tag(self.parent, "best_run", self.child(best.trial).info.run_id)
        self._clear([each.trial for each in outcomes[1:]])
        self.client.set_terminated(self.parent, "FINISHED")

    def _clear(self, trials: list[Trial]) -> None:
        names = {trial.name for trial in trials}
        for tags in (child.data.tags for child in self.children()):
            if tags[TRIAL_TAG] in names:
                shutil.rmtree(self.home.training / tags[FOLDER_TAG], ignore_errors=True)
