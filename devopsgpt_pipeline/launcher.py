"""Starting the trainer as a process of its own, and listening to it through Dagster Pipes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from devopsgpt_model.job import FAILURE_FILE, TrainingJob

POLL_S = 0.2


class TrainingFailed(RuntimeError):
    """A trainer that ended without a checkpoint."""


class LocalLauncher(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Runs training on this machine: one process, on the GPU where there is one."""

    termination_timeout_s: float = 120.0
    """Seconds that a terminated trainer may take to save its state."""

    def train(
        self,
        context: dg.AssetExecutionContext,
        job: TrainingJob,
        on_metrics: Callable[[dict[str, Any]], None],
    ) -> None:
        """Run a training job to its end. on_metrics: called with each report of rank 0 as it comes

        raises: TrainingFailed with the trainer's own words
        """
        job_file, failure = job.out / "train.json", job.out / FAILURE_FILE
        dataclasses.replace(job, parent_pid=os.getpid()).write(job_file)
        failure.unlink(missing_ok=True)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            command = [sys.executable, "-m", "devopsgpt_model.train", "--config", str(job_file)]
            process = subprocess.Popen(command, env=os.environ | session.get_bootstrap_env_vars())
            try:
                self._listen(process, session, on_metrics)
            except BaseException:
                self._terminate(process)
                raise
        if process.returncode != 0:
            reason = failure.read_text().strip() if failure.exists() else "see its output in the step's stderr"
            raise TrainingFailed(f"the trainer ended with status {process.returncode}: {reason}")

    def _listen(
        self, process: subprocess.Popen[bytes], session: Any, on_metrics: Callable[[dict[str, Any]], None]
    ) -> None:
        seen, running = 0, True
        while running:
            running = process.poll() is None  # asked before reading, so that the last messages are read too
            messages = session.get_custom_messages()
            for message in messages[seen:]:
                on_metrics(message)
            seen = len(messages)
            if running:
                time.sleep(POLL_S)

    def _terminate(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the trainer to save and end, and wait for it."""
        process.send_signal(signal.SIGINT)
        try:
            process.wait(self.termination_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
