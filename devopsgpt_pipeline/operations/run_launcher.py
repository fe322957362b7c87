"""The run launcher of the containers: Dagster's own, which also notices that a run's process is
gone.

A code server that is killed takes its runs along and leaves nobody to say so: they would stay
"started" for ever, with their slot of a pool, and hold every later training. Dagster's run
monitoring asks a launcher that can tell; its default one cannot. The kinds of process it knows
nothing of are `devopsgpt run`'s (chain.py ends those) and Kubernetes' jobs.
"""

from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import WorkerStatus
from dagster._core.launcher.base import CheckRunHealthResult
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult

ANSWER_S = 10


class WatchedRunLauncher(dg.DefaultRunLauncher):
    """Runs are processes of the code server, and the code server is asked for each whether it still
    has it."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: this is what it is for."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the run's process lives. A code server that does not answer is on its way back:
        it is asked again."""
        dagsters_own: Any = self
        client = dagsters_own._get_grpc_client_for_termination(run.run_id)
        if client is None:
            return CheckRunHealthResult(
                WorkerStatus.RUNNING, "not a run of a code server, or ended by now"
            )
        try:
            answer = client.can_cancel_execution(
                CanCancelExecutionRequest(run_id=run.run_id), timeout=ANSWER_S
            )
        except DagsterUserCodeUnreachableError:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the code server does not answer")
        if dg.deserialize_value(answer, CanCancelExecutionResult).can_cancel:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.NOT_FOUND, "the code server was started anew and does not have it"
        )
