"""Starting the trainer as processes of its own, and listening to it through Dagster Pipes."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.threads import usable_cpus
from devopsgpt_model.training.job import FAILURE_FILE, TrainingJob

POLL_S = 0.2
AGENT_GRACE_S = 10.0  # for torchrun itself to end after its ranks
DEVICES = Path("/dev")
# there, where there is a GPU: NVIDIA's, Windows' under Linux, AMD's
DRIVERS = ("nvidia*", "dxg", "kfd")

OnMetrics = Callable[[dict[str, Any]], None]
Context = dg.OpExecutionContext | dg.AssetExecutionContext


class TrainingFailed(RuntimeError):
    """A trainer that ended without a checkpoint."""


class Launcher(dg.ConfigurableResource, ABC):  # type: ignore[type-arg]
    """Where trainings run."""

    processes: int = 0
    """Processes of one training, under torchrun where they are several; 0 takes what there is, at
    least one."""

    termination_timeout_s: float = 120.0
    """Seconds that a terminated trainer may take to save its state."""

    @abstractmethod
    def train(self, context: Context, job: TrainingJob, on_metrics: OnMetrics) -> None:
        """Run a training job to its end. on_metrics: called with each report of rank 0 as it comes

        raises: TrainingFailed with the trainer's own words
        """

    def for_torchrun(self, processes: int, cpus: int) -> dict[str, str]:
        """Environment of several processes: torchrun kills who still saves after 30 s, and gives
        each one thread."""
        if processes == 1:
            return {}
        patience, threads = int(self.termination_timeout_s), max(1, cpus // processes)
        return {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(patience), "OMP_NUM_THREADS": str(threads)}


class LocalLauncher(Launcher):
    """Runs trainings on this machine, on every GPU that is visible; without one, on the CPU in one
    process."""

    def train(self, context: Context, job: TrainingJob, on_metrics: OnMetrics) -> None:
        """See Launcher. `processes` on a CPU starts that many gloo ranks."""
        job_file = hand_over(dataclasses.replace(job, parent_pid=os.getpid()))
        processes = self.processes or processes_for(job.config, visible_gpus())
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            environment = self.for_torchrun(processes, usable_cpus()) | os.environ
            environment |= session.get_bootstrap_env_vars()
            # a session of its own: torchrun must hear of a Ctrl-C in the terminal once, from us
            process = subprocess.Popen(
                command_of(job_file, processes), env=environment, start_new_session=True
            )
            try:
                self._listen(process, session, on_metrics)
            except BaseException:
                self._terminate(process)
                raise
        if process.returncode != 0:
            raise TrainingFailed(
                f"the trainer ended with status {process.returncode}: {words_of_failure(job)}"
            )

    def _listen(
        self, process: subprocess.Popen[bytes], session: Any, on_metrics: OnMetrics
    ) -> None:
        seen, running = 0, True
        while running:
            # asked before reading, so that the last messages are read too
            running = process.poll() is None
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
            process.wait(self.termination_timeout_s + AGENT_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def hand_over(job: TrainingJob) -> Path:
    """Write the file that the trainer reads, and forget why an earlier start failed. returns: the
    file"""
    (job.out / FAILURE_FILE).unlink(missing_ok=True)
    job_file = job.out / "train.json"
    job.write(job_file)
    return job_file


def words_of_failure(job: TrainingJob) -> str:
    """Why the trainer ended without a checkpoint, as it wrote it down itself."""
    failure = job.out / FAILURE_FILE
    return (
        failure.read_text().strip() if failure.exists() else "see its output in the step's stderr"
    )


def command_of(job_file: Path, processes: int, python: str = sys.executable) -> list[str]:
    """How the trainer is started: by itself, or under torchrun with several ranks on one
    machine."""
    trainer = ["-m", "devopsgpt_model.train", "--config", str(job_file)]
    if processes == 1:
        return [python, *trainer]
    return [
        python,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        *trainer,
    ]


def processes_for(config: TrainingConfig, gpus: int) -> int:
    """One process for each GPU, as far as the micro-batches of a step can be dealt out evenly; one
    without a GPU."""
    if config.device not in ("auto", "cuda"):
        return 1
    return max(n for n in range(1, max(1, gpus) + 1) if config.grad_accum_steps % n == 0)


def visible_gpus() -> int:
    """CUDA devices that this process may use; looking does not occupy them."""
    if not any(any(DEVICES.glob(name)) for name in DRIVERS):
        return 0  # without importing torch, which takes seconds
    import torch

    return torch.cuda.device_count()
