"""`devopsgpt run` and `devopsgpt finetune`: the chain, with the MLflow server that it needs around
it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
from rich.markup import escape

from devopsgpt_model.config import GPT2_SIZES, TrainingConfig
from devopsgpt_model.tracking import DEFAULT_TRACKING_URI
from devopsgpt_pipeline.home import BOOKS, OLD_BOOKS, Home
from devopsgpt_pipeline.local import chain, servers
from devopsgpt_pipeline.local.databases import check_databases, clear_unfinished_mlflow
from devopsgpt_pipeline.local.grid import Outcome, Trial
from devopsgpt_pipeline.local.progress import ChainProgress
from devopsgpt_pipeline.profiles import Profile
from devopsgpt_pipeline.settings import read_settings
from devopsgpt_pipeline.sources.books import books_of_profile

if TYPE_CHECKING:
    from devopsgpt_pipeline.local.whole import Whole

AFTER_TOKEN_BINS = [
    dg.AssetKey(name)
    for name in (
        "finetuned_checkpoint",
        "evaluation",
        "registered_model",
        "champion",
        "leaderboard",
    )
]


@contextmanager
def bring_up_to_date(home: Home, profile: Profile) -> Iterator[str]:
    """Materialize what is out of date, MLflow running. yields: its tracking URI, until the block
    ends

    raises: ChainError for a step or a check that failed
    """
    with _session(home, profile) as (session, tracking_uri):
        session.observe()
        session.fetch_pretrained(profile.training.init_from)
        session.update()
        yield tracking_uri


def finetune_once(home: Home, profile: Profile, config: TrainingConfig, dataset: str) -> None:
    """Train with these settings on data that is up to date, then evaluate, register and decide.

    raises: ChainError for a step or a check that failed
    """
    with _session(home, profile) as (session, _):
        session.prepare_training([config], dataset)
        session.finetune(dataclasses.asdict(config) | {"dataset": dataset})


def finetune_sweep(
    home: Home, profile: Profile, preset_name: str, trials: list[Trial], dataset: str
) -> list[Outcome]:
    """Train every trial on data that is up to date, then evaluate, register and decide on the best
    one.

    returns: how each trial ended, the best first
    raises: ChainError where all trials failed, or what follows them; ChainInterrupted
    """
    from devopsgpt_pipeline.local.sweep import Sweep
    from devopsgpt_pipeline.tracking.client import connect

    with _session(home, profile) as (session, tracking_uri):
        session.prepare_training([trial.config for trial in trials], dataset)
        sweep = Sweep(home, connect(tracking_uri), preset_name, trials, dataset)
        job = session.definitions.resolve_job_def("sweep_trial")
        outcomes = sweep.run(job, session.instance, session.progress)
        session.progress.say(f"best: {outcomes[0].trial.name}")
        # trained already: its folder is found finished
        session.finetune(sweep.settings(outcomes[0].trial))
        return outcomes


def make_datasets(
    home: Home, tracking_uri: str | None, settings: dict[str, dict[str, Any]]
) -> None:
    """Materialize the token bins of these datasets beside the books. settings: of each one's asset

    raises: ValueError for an unknown one; ChainError where it cannot be made
    """
    servers.set_environment(home, tracking_uri or DEFAULT_TRACKING_URI, DEFAULT_TRACKING_URI)
    with ChainProgress() as progress, dg.DagsterInstance.get() as instance:
        # reads the environment that was set just now
        from devopsgpt_pipeline.definitions import defs

        for dataset, of_one in settings.items():
            progress.say(f"making the token bins of {dataset}")
            Session(defs, instance, progress).make_dataset(dataset, of_one)


@contextmanager
def _session(home: Home, profile: Profile) -> Iterator[tuple["Session", str]]:
    check_databases(home)
    clear_unfinished_mlflow(home)
    mlflow = servers.mlflow_server(home, servers.free_port())
    servers.set_environment(home, mlflow.url, DEFAULT_TRACKING_URI)
    with ChainProgress() as progress:
        progress.say(f"profile {profile.name}, home {home.path}")
        with servers.running([mlflow]), dg.DagsterInstance.get() as instance:
            if abandoned := chain.end_abandoned_runs(instance):
                progress.say(
                    f"ended {len(abandoned)} run(s) whose process was killed; what they did is kept"
                )
            # reads the environment that was set just now
            from devopsgpt_pipeline.definitions import defs
            from devopsgpt_pipeline.local.whole import Whole
            from devopsgpt_pipeline.tracking.client import connect

            books = books_of_profile(profile.name, read_settings().books)
            whole = Whole(home, connect(mlflow.url), books)
            yield Session(defs, instance, progress, whole), mlflow.url


@dataclass
class Session:
    """One walk over the chain."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    progress: ChainProgress
    whole: "Whole | None" = None
    """Looks whether what is up to date is still there; None trusts Dagster."""

    @property
    def job(self) -> dg.JobDefinition:
        return self.definitions.resolve_job_def("whole_chain")

    def observe(self) -> None:
        """Look whether the books have changed."""
        self.progress.say("observing the books")
        chain.materialize(
            self.definitions.resolve_job_def("observe_books"), self.instance, self.progress
        )

    def fetch_pretrained(self, init_from: str) -> None:
        """The weights to start from, where they are a size of GPT-2 that is not here yet."""
        if init_from not in GPT2_SIZES:
            return
        made = self.instance.get_materialized_partitions(dg.AssetKey("pretrained_gpt2"))
        if init_from not in made or (self.whole and not self.whole.has_pretrained(init_from)):
            self.progress.say(f"fetching {init_from}")
            job = self.definitions.resolve_job_def("fetch_pretrained_gpt2")
            chain.materialize(job, self.instance, self.progress, partition=init_from)

    def prepare_training(self, configs: list[TrainingConfig], dataset: str) -> None:
        """Everything that comes before training with these settings."""
        self.observe()
        for init_from in sorted({config.init_from for config in configs}):
            self.fetch_pretrained(init_from)
        self.update(leave_out=AFTER_TOKEN_BINS)
        if dataset not in (BOOKS, OLD_BOOKS):
            self.make_dataset(dataset)

    def finetune(self, settings: dict[str, Any]) -> None:
        """Train with a launchpad's settings, and everything that comes after it."""
        run_config = {"ops": {"finetuned_checkpoint": {"config": settings}}}
        chain.materialize(self.job, self.instance, self.progress, AFTER_TOKEN_BINS, run_config)

    def make_dataset(self, dataset: str, settings: dict[str, Any] | None = None) -> None:
        """The token bins of a dataset beside the books. settings: of its asset

        raises: ValueError for an unknown one
        """
        job = self.definitions.resolve_job_def("datasets")
        key = dg.AssetKey(f"token_bins_{dataset}")
        known = sorted(
            one.to_user_string().removeprefix("token_bins_")
            for one in job.asset_layer.selected_asset_keys
        )
        if dataset not in known:
            raise ValueError(
                f"unknown dataset {dataset!r}; beside `books` they are {', '.join(known)}"
            )
        run_config = {"ops": {key.to_user_string(): {"config": settings}}} if settings else None
        chain.materialize(job, self.instance, self.progress, [key], run_config)

    def update(self, leave_out: list[dg.AssetKey] | None = None) -> None:
        """Materialize in rounds: what one round makes may leave what follows as it was."""
        before: list[dg.AssetKey] = []
        while stale := self._out_of_date(leave_out or []):
            names = ", ".join(key.to_user_string() for key in stale)
            if stale == before:
                raise chain.ChainError(f"still out of date after being materialized: {names}")
            if failures := chain.failed_checks(self.job, self.instance, stale):
                raise chain.ChainError(
                    "a blocking check failed, what follows is held:\n  " + "\n  ".join(failures)
                )
            self.progress.say(f"materializing {names}")
            chain.materialize(self.job, self.instance, self.progress, stale)
            before = stale
        if not before:
            self.progress.say("everything is up to date")

    def _out_of_date(self, leave_out: list[dg.AssetKey]) -> list[dg.AssetKey]:
        """What is to be made, in the order of the chain; what was damaged since it was made is told
        of."""
        stale = chain.out_of_date(self.job, self.instance)
        for key, data_version in chain.up_to_date(self.job, self.instance, stale):
            if self.whole is None or key in leave_out:
                continue
            if damage := self.whole.damage(key.to_user_string(), data_version):
                told = escape(f"{key.to_user_string()}: {damage}")
                self.progress.say(f"[yellow]damaged, to be made anew:[/] {told}")
                stale.append(key)
        order = self.job.asset_layer.asset_graph.toposorted_asset_keys
        return [key for key in order if key in stale and key not in leave_out]
