"""`devopsgpt run` and `devopsgpt finetune`: the chain with the servers that it needs around it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import requests

from devopsgpt_model.config import TrainingConfig
from devopsgpt_pipeline import chain, processes
from devopsgpt_pipeline.environment import configure
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.profiles import Profile
from devopsgpt_pipeline.progress import ChainProgress

UI_URL = "http://127.0.0.1:5000"  # where `devopsgpt up` shows MLflow; links in metadata point there
AFTER_TOKEN_BINS = ["finetuned_checkpoint", "evaluation", "registered_model", "champion"]


@contextmanager
def bring_up_to_date(home: Home, profile: Profile) -> Iterator[str]:
    """Materialize what is out of date, MLflow running. yields: its tracking URI, until the block ends

    raises: ChainError for a step or a check that failed
    """
    with _session(home) as (tracking_uri, instance, progress):
        definitions = _definitions()
        _observe(definitions, instance, progress, profile)
        _update(definitions.resolve_job_def("whole_chain"), instance, progress)
        yield tracking_uri


def finetune_once(home: Home, profile: Profile, config: TrainingConfig) -> None:
    """Train with these settings on data that is up to date, then evaluate, register and decide."""
    with _session(home) as (_, instance, progress):
        definitions = _definitions()
        _observe(definitions, instance, progress, profile)
        job = definitions.resolve_job_def("whole_chain")
        after = [dg.AssetKey(name) for name in AFTER_TOKEN_BINS]
        _update(job, instance, progress, leave_out=after)
        run_config = {"ops": {"finetuned_checkpoint": {"config": dataclasses.asdict(config)}}}
        chain.materialize(job, instance, progress, after, run_config)


@contextmanager
def _session(home: Home) -> Iterator[tuple[str, dg.DagsterInstance, ChainProgress]]:
    mlflow = processes.mlflow_server(home, processes.free_port())
    configure(home, mlflow.url, UI_URL)
    with ChainProgress() as progress:
        progress.say(f"home {home.path}")
        with processes.running([mlflow]), dg.DagsterInstance.get() as instance:
            yield mlflow.url, instance, progress


def _definitions() -> dg.Definitions:
    from devopsgpt_pipeline.definitions import defs

    return defs


def _observe(
    definitions: dg.Definitions, instance: dg.DagsterInstance, progress: ChainProgress, profile: Profile
) -> None:
    progress.say(f"observing the books of profile {profile.name}")
    chain.materialize(definitions.resolve_job_def("observe_books"), instance, progress)


def _update(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    progress: ChainProgress,
    leave_out: list[dg.AssetKey] | None = None,
) -> None:
    """Materialize in rounds: what one round makes may leave what follows as it was."""
    before: list[dg.AssetKey] = []
    while stale := [key for key in chain.out_of_date(job, instance) if key not in (leave_out or [])]:
        if stale == before:
            names = ", ".join(key.to_user_string() for key in stale)
            raise chain.ChainError(f"still out of date after being materialized: {names}")
        if failures := chain.failed_gates(job, instance, stale):
            raise chain.ChainError("a blocking check failed, what follows it is held:\n  " + "\n  ".join(failures))
        progress.say("materializing " + ", ".join(key.to_user_string() for key in stale))
        chain.materialize(job, instance, progress, stale)
        before = stale
    if not before:
        progress.say("everything is up to date")


def ask(home: Home, tracking_uri: str, question: str) -> None:
    """Start the service, put a question to it over HTTP, print the answer and the version that gave it."""
    server = processes.serving_server(home, processes.free_port(), tracking_uri)
    with processes.running([server]):
        _wait_for_model(server.url)
        body = {"prompt": question, "max_token_len": 60}
        print(f"\n$ curl -X POST {server.url}/api/generate -H 'content-type: application/json' -d '{body}'")
        response = requests.post(f"{server.url}/api/generate", json=body, timeout=60)
        response.raise_for_status()
        _print_answer(question, response.json())


def _wait_for_model(url: str) -> None:
    import time

    deadline = time.monotonic() + 60
    while True:
        response = requests.get(f"{url}/api/readyz", timeout=10)
        if response.ok:
            return
        if time.monotonic() > deadline:
            raise chain.ChainError(f"the service has no model to serve: {response.text}")
        time.sleep(0.2)


def _print_answer(question: str, answer: dict[str, Any]) -> None:
    print(f"\n{question}{answer['completions'][0]['text']}\n")
    print(f"answered by {answer['model']} version {answer['version']}")
