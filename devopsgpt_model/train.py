"""The training command: token bins in, a checkpoint folder out.

`python -m devopsgpt_model.train --config train.json` (see job.py for the file), or under torchrun on one or many
machines. Stopped by SIGINT, SIGTERM or a kill and started again with the same file, it goes on from its last saved
state.
"""

import argparse
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType

from devopsgpt_model.compile_policy import keep_compiled_code
from devopsgpt_model.folders import write_whole
from devopsgpt_model.job import FAILURE_FILE, HEARTBEAT_FILE, TrainingJob
from devopsgpt_model.ranks import Ranks
from devopsgpt_model.report import Report, ReportError, Silence
from devopsgpt_model.trainer import Stopped, Trainer, TrainingDiverged

STOPPED = 75  # exit status of a run that was told to stop and can be resumed (EX_TEMPFAIL)
FAILED = 1


def train(job: TrainingJob) -> dict[str, object]:
    """Run a job to its end and return its facts; one that ended before only delivers its report again.

    raises: ValueError for settings and data that do not fit; Stopped; TrainingDiverged; ReportError
    """
    job.out.mkdir(parents=True, exist_ok=True)
    with Ranks() as ranks:
        trainer = Trainer(job, ranks)
        _stop_on_signals(trainer)
        _stop_without(trainer, job.parent_pid)
        _stop_without_heartbeat(trainer, job.out / HEARTBEAT_FILE, job.heartbeat_s)
        if ranks.size > 1:
            _stop_without(trainer, os.getppid())  # torchrun's agent on this machine
        try:
            with _report(job, trainer) as report:
                trainer.run(report)
        except Stopped:
            ranks.meet()  # torchrun kills the others soon after the first that ends: rank 0 may still be saving
            raise
    return trainer.facts()


def _report(job: TrainingJob, trainer: Trainer) -> AbstractContextManager[Report | Silence]:
    """Only rank 0 is heard."""
    if not trainer.ranks.first:
        return nullcontext(Silence())
    metrics_file = job.out / "metrics.jsonl"
    return Report(metrics_file, job.mlflow_tracking_uri, job.mlflow_run_id, trainer.progress.step)


def _stop_on_signals(trainer: Trainer) -> None:
    def request_stop(signal_number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)


def _stop_without(trainer: Trainer, parent_pid: int) -> None:
    """Watch the launching process: a killed launcher must not leave a trainer behind."""

    def watch() -> None:
        while _alive(parent_pid):
            time.sleep(1.0)
        trainer.stop_requested = True

    if parent_pid:
        threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _stop_without_heartbeat(trainer: Trainer, path: Path, patience_s: float) -> None:
    """Watch a launcher on another machine, by our own clock: only that the file's time changes counts."""

    def watch() -> None:
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < patience_s:
            touched = path.stat().st_mtime_ns if path.exists() else -1
            if touched != seen:
                seen, since = touched, time.monotonic()
            time.sleep(min(1.0, patience_s / 4))
        trainer.stop_requested = True

    if patience_s:
        threading.Thread(target=watch, daemon=True, name="heartbeat-watch").start()


def _alive(pid: int) -> bool:
    if os.getppid() == pid:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _defunct(pid)


def _defunct(pid: int) -> bool:
    """Whether a process is dead and only its entry is left, which in a container may stay for ever. Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Command line. returns: 0, 1 for an error told in one line, 75 for a run that was stopped and can go on"""
    parser = argparse.ArgumentParser(prog="devopsgpt_model.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="training job, a JSON file")
    options = parser.parse_args(arguments)
    try:
        job = TrainingJob.read(options.config)
    except ValueError as error:
        print(f"training failed: {error}", file=sys.stderr)
        return FAILED
    keep_compiled_code(job.out.parent / "compiled")
    try:
        train(job)
    except Stopped as stopped:
        return _end(job, str(stopped), STOPPED)
    except (ValueError, TrainingDiverged, ReportError, OSError) as error:
        return _end(job, f"training failed: {error}", FAILED)
    return 0


def _end(job: TrainingJob, reason: str, status: int) -> int:
    """Say why a run ended early, to whoever reads stderr and to the launcher. returns: status"""
    print(reason, file=sys.stderr)
    try:
        write_whole(job.out / FAILURE_FILE, f"{reason}\n".encode())
    except OSError as error:
        print(f"{FAILURE_FILE} could not be written: {error}", file=sys.stderr)
    return status


def _leave(status: int) -> None:
    """End the process. A rank does not wait for the interpreter to be taken down around threads of the process group.

    Seen once with two gloo ranks: SIGABRT after everything was written, and torchrun called the run failed.
    """
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _leave(main())
