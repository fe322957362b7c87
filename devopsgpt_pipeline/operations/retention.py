"""What is forgotten: model versions, Dagster's runs, working folders, downloads, logs.

Never forgotten: a version that an alias names, the run that tells what an asset is now, a file that
is in use or that a person brought. Earlier pages of the books have a limit of their own
(sources/archive.py), the service's cache too (its settings).
"""

import json
import shutil
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.pretrained import folders_in_use
from devopsgpt_pipeline.hub.source import BY_HAND
from devopsgpt_pipeline.tracking.client import (
    MODEL_NAME,
    aliases_by_name,
    all_pages,
    experiment_id,
    model_versions,
)

DAY_S = 86_400
Kind = dg.DagsterEventType
FACTS = {Kind.ASSET_MATERIALIZATION, Kind.ASSET_OBSERVATION, Kind.ASSET_CHECK_EVALUATION}


def forget_versions(client: MlflowClient, keep: int) -> list[str]:
    """Delete model versions beyond the newest `keep`, but none with an alias. returns: their
    numbers"""
    named = set(aliases_by_name(client).values())
    versions = [str(found.version) for found in model_versions(client)]
    old = [version for version in versions[keep:] if version not in named]
    for version in old:
        client.delete_model_version(MODEL_NAME, version)
    return old


def forget_orphans(client: MlflowClient, days: float) -> list[str]:
    """Delete the files of uploads that no version names. returns: their ids"""
    used = {found.source.rpartition("/")[2] for found in model_versions(client)}
    before_ms = (time.time() - days * DAY_S) * 1000
    orphans = [
        model
        for model in all_pages(client.search_logged_models, experiment_ids=[experiment_id(client)])
        if model.model_id not in used
        and model.creation_timestamp < before_ms
        and model.name == MODEL_NAME
    ]
    for model in orphans:
        get_artifact_repository(
            model.artifact_location, tracking_uri=client.tracking_uri
        ).delete_artifacts()
        client.delete_logged_model(model.model_id)  # last: after a crash it is found again
    return [model.model_id for model in orphans]


def forget_runs(instance: dg.DagsterInstance, home: Home, days: float) -> list[str]:
    """Delete finished runs and what their steps printed; not those that hold an asset's present
    facts."""
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    before = datetime.now(UTC) - timedelta(days=days)
    old = instance.get_run_records(dg.RunsFilter(statuses=ended, updated_before=before))
    forgotten = [
        record.dagster_run.run_id
        for record in old
        if not _is_needed(instance, record.dagster_run.run_id)
    ]
    for run_id in forgotten:
        instance.delete_run(run_id)
        shutil.rmtree(home.dagster / "storage" / run_id, ignore_errors=True)
        for events in (home.dagster / "history" / "runs").glob(f"{run_id}.db*"):
            # without PostgreSQL each run has a file of 0.3 MB, which Dagster empties and leaves
            events.unlink()
    return forgotten


def _is_needed(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run holds the latest fact about something: deleting it would make that thing out of
    date."""
    return any(
        _is_latest(instance, run_id, entry.dagster_event)
        for entry in instance.all_logs(run_id, of_type=FACTS)
        if entry.dagster_event
    )


def _is_latest(instance: dg.DagsterInstance, run_id: str, event: dg.DagsterEvent) -> bool:
    if event.partition is not None:
        return True  # each partition's facts are facts of their own; there are few
    if event.event_type is Kind.ASSET_CHECK_EVALUATION:
        key = event.asset_check_evaluation_data.asset_check_key
        history = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        return bool(history) and history[0].run_id == run_id
    if event.asset_key is None:
        return False
    if event.event_type is Kind.ASSET_MATERIALIZATION:
        latest = instance.get_latest_materialization_event(event.asset_key)
        return latest is not None and latest.run_id == run_id
    observed = instance.fetch_observations(event.asset_key, limit=1).records
    return bool(observed) and observed[0].run_id == run_id


def forget_folders(home: Home, days: float) -> list[Path]:
    """Delete what nobody went on with: trainings' states, folders never finished, downloads that
    nothing names."""
    in_use = {
        home.finetuned.resolve(),
        *starts_in_use(home),
        *(path.resolve() for path in folders_in_use(home.hub)),
    }
    places = [
        *home.training.glob("*"),
        *home.checkpoints.glob(".*"),
        *home.tokens.glob(".*"),
        *home.pretrained.glob(".*"),
        *home.hub.glob("*/*"),
        *(path for path in home.downloads.glob("*/*") if path.name != BY_HAND),
    ]
    in_use |= {
        path.resolve() for folder in (home.tokens, home.pretrained) for path in folder.glob("[!.]*")
    }
    before = time.time() - days * DAY_S
    old = [
        path
        for path in places
        if path.is_dir() and path.resolve() not in in_use and _last_change(path) < before
    ]
    for path in old:
        path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
    return old


def forget_temporary(home: Home, days: float) -> list[Path]:
    """Delete what steps that were killed left in the home's temporary folder."""
    before, old = time.time() - days * DAY_S, []
    for path in home.temporary.glob("*"):
        with suppress(FileNotFoundError):  # its step ends just now
            if path.lstat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                old.append(path)
    return old


def starts_in_use(home: Home) -> set[Path]:
    """Weights that a training under way, or the newest checkpoint (its evaluation reads them),
    started from."""
    found = set()
    for file in (*home.training.glob("*/train.json"), home.finetuned / "training.json"):
        with suppress(FileNotFoundError):
            if start := json.loads(file.read_text()).get("init_checkpoint"):
                found.add(Path(start).resolve())
    return found


def _last_change(folder: Path) -> float:
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def cut_logs(home: Home, limit_bytes: int) -> list[Path]:
    """Cut logs that grew too long; their writers append, so they write on behind what is left."""
    long = [path for path in home.logs.glob("*.log") if path.stat().st_size > limit_bytes]
    for path in long:
        with path.open("r+b") as log:
            log.seek(-limit_bytes // 2, 2)
            tail = log.read()
            log.seek(0)
            log.write(tail[tail.find(b"\n") + 1 :])
            log.truncate()
    return long
