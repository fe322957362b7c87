"""The training command: token bins in, a checkpoint folder out.

`python -m devopsgpt_model.train --config train.json` (see job.py for the file), or under torchrun
on one or many machines. Stopped by SIGINT, SIGTERM or a kill and started again with the same file,
it goes on from its last saved state.
"""

import argparse
import ctypes
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO

from devopsgpt_model.atomic import write_atomically
from devopsgpt_model.shutdown import STOPPED, Stopped, StopRequest
from devopsgpt_model.threads import keep_to_quota
from devopsgpt_model.training.compile_policy import keep_compiled_code
from devopsgpt_model.training.job import FAILURE_FILE, HEARTBEAT_FILE, TrainingJob
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.report import Report, ReportError, Silence
from devopsgpt_model.training.trainer import Trainer, TrainingDiverged

# of a trainer that nobody waits for: as long as saving 25 GB takes, and no longer if it hangs
PATIENCE_S = 300.0
FAILED = 1
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of glibc's malloc.h
LOCK_FILE = ".lock"  # in the job's out folder, locked by the trainer that works there


def train(job: TrainingJob, stop: StopRequest | None = None) -> dict[str, object]:
    """Run a job to its end and return its facts; one that ended before only delivers its report
    again.

    stop: who tells it to stop before its end, beside the launcher that the job names
    raises: ValueError for settings and data that do not fit; Stopped; TrainingDiverged; ReportError
    """
    job.out.mkdir(parents=True, exist_ok=True)
    stop = stop or StopRequest()
    stop.without(job.parent_pid)
    stop.without_heartbeat(job.out / HEARTBEAT_FILE, job.heartbeat_s)
    with Ranks() as ranks, _only_trainer(job.out, ranks, stop):
        trainer = Trainer(job, ranks, stop)
        try:
            with _report(job, trainer) as report:
                trainer.run(report)
        except (Stopped, TrainingDiverged):
            # torchrun kills the others soon after the first that ends: rank 0 may still be saving
            ranks.meet()
            raise
    return trainer.facts()


@contextmanager
def _only_trainer(folder: Path, ranks: Ranks, stop: StopRequest) -> Iterator[None]:
    """Wait for a trainer that works in the folder still: a killed launcher's saves its state before
    it ends."""
    with (folder / LOCK_FILE).open("w") as lock:
        if ranks.first and not _locked(lock):
            print(f"another trainer works in {folder} still, waiting for its end", flush=True)
            while not _locked(lock):
                if stop.made:
                    raise Stopped(f"stopped while another trainer worked in {folder}")
                time.sleep(0.1)
        ranks.meet()
        yield


def _locked(file: IO[str]) -> bool:
    """Lock a file for this process's life, where no other has it. returns: whether it is ours"""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _report(job: TrainingJob, trainer: Trainer) -> AbstractContextManager[Report | Silence]:
    """Only rank 0 is heard."""
    if not trainer.ranks.first:
        return nullcontext(Silence())
    metrics_file = job.out / "metrics.jsonl"
    progress = trainer.progress
    return Report(
        metrics_file,
        job.mlflow_tracking_uri,
        job.mlflow_run_id,
        progress.step,
        progress.evaluated_step,
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line. returns: 0, 1 for an error told in one line, 75 for a run that was stopped and
    can go on"""
    stop = StopRequest(PATIENCE_S)
    stop.on_signals()
    if "RANK" in os.environ:
        stop.without(os.getppid())  # torchrun's agent on this machine
    parser = argparse.ArgumentParser(prog="devopsgpt_model.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="training job, a JSON file")
    options = parser.parse_args(arguments)
    try:
        job = TrainingJob.read(options.config)
    except ValueError as error:
        print(f"training failed: {error}", file=sys.stderr)
        return FAILED
    keep_to_quota()
    keep_compiled_code(job.out.parent / "compiled")
    try:
        if Ranks().device(job.config.device).type == "cpu":
            keep_freed_memory()
        train(job, stop)
    except Stopped as stopped:
        return _end(job, str(stopped), STOPPED)
    except (ValueError, TrainingDiverged, ReportError, OSError) as error:
        return _end(job, f"training failed: {error}", FAILED)
    return 0


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed, for the rest of the process; nothing where the C
    library is another.

    Tensors of over 32 MB are given back to the kernel and mapped anew in each step otherwise, page
    by page, each page filled with zeros: 100,000 pages a step of 6 layers of 384.
    docs/performance.md, Training
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)


def _end(job: TrainingJob, reason: str, status: int) -> int:
    """Say why a run ended early, to whoever reads stderr and to the launcher. returns: status"""
    print(reason, file=sys.stderr)
    try:
        write_atomically(job.out / FAILURE_FILE, f"{reason}\n".encode())
    except OSError as error:
        print(f"{FAILURE_FILE} could not be written: {error}", file=sys.stderr)
    return status


def _leave(status: int) -> None:
    """End the process. A rank does not wait for the interpreter to be taken down around threads of
    the process group.

    Seen once with two gloo ranks: SIGABRT after everything was written, and torchrun called the run
    failed.
    """
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    _leave(main())
