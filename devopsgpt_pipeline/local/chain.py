"""The whole chain in this process: observe, see what is out of date, materialize that and nothing
else.

What the Dagster daemon decides over hours for `devopsgpt up`, this decides once for `devopsgpt
run`. Both write to the same Dagster instance, so the UI shows what was done here.
"""

import os
import signal
import threading
import uuid
from collections.abc import Callable
from typing import Any

import dagster as dg

from devopsgpt_model.shutdown import process_is_alive

PID_TAG = "devopsgpt/pid"  # of a run in a process of ours, not of a Dagster server
DATA_VERSION_TAG = "dagster/data_version"
CODE_VERSION_TAG = "dagster/code_version"
EVALUATED = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
INPUT_TAG = "dagster/input_data_version/"

Listener = Callable[[dg.EventLogEntry], None]


class ChainError(RuntimeError):
    """A chain that did not reach its end."""


class ChainInterrupted(ChainError):
    """A chain that a person, or a signal, interrupted."""


def out_of_date(job: dg.JobDefinition, instance: dg.DagsterInstance) -> list[dg.AssetKey]:
    """Assets of a job that were never made, or whose code or inputs have changed since; in the
    order of the chain.

    Partitioned inputs are not compared: they are weights pinned to a revision, which cannot change.
    """
    graph = job.asset_layer.asset_graph
    made_here = job.asset_layer.executable_asset_keys
    stale: list[dg.AssetKey] = []
    for key in (key for key in graph.toposorted_asset_keys if key in made_here):
        node, tags = graph.get(key), _tags(instance, key)
        parents = [parent for parent in node.parent_keys if not graph.get(parent).is_partitioned]
        current = {parent: _tags(instance, parent).get(DATA_VERSION_TAG) for parent in parents}
        seen = {parent: tags.get(INPUT_TAG + parent.to_user_string()) for parent in parents}
        if tags.get(CODE_VERSION_TAG) != node.code_version or current != seen:
            stale.append(key)
    return stale


def up_to_date(
    job: dg.JobDefinition, instance: dg.DagsterInstance, stale: list[dg.AssetKey]
) -> list[tuple[dg.AssetKey, str]]:
    """A job's other assets with their data versions, in the order of the chain."""
    made_here = job.asset_layer.executable_asset_keys
    return [
        (key, _tags(instance, key).get(DATA_VERSION_TAG, ""))
        for key in job.asset_layer.asset_graph.toposorted_asset_keys
        if key in made_here and key not in stale
    ]


def _tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """Version tags of an asset's latest materialization, or of a source's latest observation."""
    entry = instance.get_latest_materialization_event(key)
    if entry and entry.asset_materialization:
        return dict(entry.asset_materialization.tags or {})
    observations = instance.fetch_observations(key, limit=1).records
    if observations and observations[0].asset_observation:
        return dict(observations[0].asset_observation.tags or {})
    return {}


def failed_checks(
    job: dg.JobDefinition, instance: dg.DagsterInstance, stale: list[dg.AssetKey]
) -> list[str]:
    """Blocking checks that failed on up-to-date assets: what follows them must not run."""
    graph = job.asset_layer.asset_graph
    checks = [
        key
        for key in graph.asset_check_keys
        if key.asset_key not in stale and graph.get(key).blocking
    ]
    evaluations = (_latest_evaluation(instance, key) for key in checks)
    return [
        f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}: "
        f"{evaluation.description or ''}"
        for evaluation in evaluations
        if evaluation and not evaluation.passed
    ]


def _latest_evaluation(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> Any:
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    event = records[0].event.dagster_event if records and records[0].event else None
    return (
        event.asset_check_evaluation_data if event and event.event_type_value == EVALUATED else None
    )


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs whose process was killed: they would hold their pool's slot for ever. returns:
    their ids"""
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])
    abandoned = [
        run
        for run in instance.get_runs(unfinished)
        if PID_TAG in run.tags and not process_is_alive(int(run.tags[PID_TAG]))
    ]
    for run in abandoned:
        instance.report_run_failed(run, f"process {run.tags[PID_TAG]} was killed")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in abandoned]


class WaitForASlot:
    """Lets Ctrl-C and SIGTERM end a run that waits for a pool's slot.

    Dagster keeps signals back until the next step asks for them, and while a run waits in this
    process no step does. A listener of the run's events: the first one about waiting is the moment
    to take the signals over.
    """

    def __init__(self) -> None:
        self._waiting = False
        self._before: Any = None

    def __call__(self, entry: dg.EventLogEntry) -> None:
        """Take in one event of the run."""
        event = entry.dagster_event
        blocked = (
            event is not None
            and event.is_engine_event
            and "pool" in event.engine_event_data.metadata
        )
        if (
            blocked
            and self._before is None
            and threading.current_thread() is threading.main_thread()
        ):
            self._before = signal.getsignal(signal.SIGINT)
            # Dagster puts its own back when the run ends
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._end)
        self._waiting = blocked

    def _end(self, number: int, frame: Any) -> None:
        if self._waiting:
            raise dg.DagsterExecutionInterruptedError(
                "nothing was begun that waited for another run"
            )
        self._before(number, frame)


def materialize(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    listen: Listener,
    selection: list[dg.AssetKey] | None = None,
    run_config: dict[str, Any] | None = None,
    partition: str | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Run a job, or a selection of its assets, in this process. listen: hears every event as it is
    stored

    raises: ChainError with the first failed step's own words; ChainInterrupted
    """
    run_id = str(uuid.uuid4())
    instance.add_event_listener(run_id, listen)
    instance.add_event_listener(run_id, WaitForASlot())
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(
        run_config={**quiet, **(run_config or {})},
        instance=instance,
        asset_selection=selection,
        partition_key=partition,
        run_id=run_id,
        raise_on_error=False,
        tags={PID_TAG: str(os.getpid()), **(tags or {})},
    )
    if not result.success:
        raise _first_failure(result)


def _first_failure(result: dg.ExecuteInProcessResult) -> ChainError:
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed:
            asset = evaluation.asset_key.to_user_string()
            return ChainError(
                f"{asset}: check {evaluation.check_name} failed: {evaluation.description}"
            )
    for event in result.filter_events(lambda event: event.is_step_failure):
        error = event.step_failure_data.error
        cause = error.cause if error and error.cause else error
        if error and error.cls_name == "DagsterExecutionInterruptedError":
            return ChainInterrupted(
                f"interrupted in {event.step_key}; what was done is kept, the same command goes on "
                "from there"
            )
        return ChainError(f"{event.step_key}: {cause.message.strip() if cause else 'failed'}")
    for event in result.filter_events(lambda event: event.is_run_failure):
        error = event.job_failure_data.error
        if error and error.cls_name == "DagsterExecutionInterruptedError":
            reason = error.message.rpartition(": ")[2].strip()
            return ChainInterrupted(f"interrupted: {reason}; the same command goes on from there")
    return ChainError(f"run {result.run_id} failed; look at it in Dagster's UI")
