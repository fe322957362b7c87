"""The trainer under Dagster: one process or several ranks, stopped, killed, gone on."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import dagster as dg
import psutil
import pytest

from devopsgpt_model.training.report import read_metrics
from devopsgpt_pipeline.defs.resources import build_launcher
from devopsgpt_pipeline.settings import read_settings
from devopsgpt_pipeline.training.kubernetes_launcher import KubernetesLauncher
from devopsgpt_pipeline.training.launcher import (
    LocalLauncher,
    command_of,
    processes_for,
    visible_gpus,
)
from pipeline.training.running import CONFIG, ENDLESS, losses

# A step worker: Dagster, the launcher, and a training that somebody kills.
WORKER = """
import sys
from pathlib import Path
import dagster as dg
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.training.kubernetes_launcher import KubernetesLauncher
from devopsgpt_pipeline.training.launcher import LocalLauncher

@dg.asset
def trained(context: dg.AssetExecutionContext, launcher: LocalLauncher):
    launcher.train(context, TrainingJob.read(Path(sys.argv[1])), lambda message: None)
    return dg.MaterializeResult()

with dg.DagsterInstance.ephemeral() as instance:
    resources = {"launcher": LocalLauncher(processes=int(sys.argv[2]))}
    dg.materialize([trained], resources=resources, instance=instance, raise_on_error=True)
"""


def train(job, processes, on_metrics=lambda message: None):
    """Through Dagster, in this process. returns: what the launcher passed on, message by message"""
    heard = []

    def hear(message):
        heard.append(message)
        on_metrics(message)

    @dg.asset
    def trained(context: dg.AssetExecutionContext, launcher: LocalLauncher):
        launcher.train(context, job, hear)
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(
            [trained], resources={"launcher": LocalLauncher(processes=processes)}, instance=instance
        )
    return heard


def start_worker(job, processes):
    job.write(job.out / "job.json")
    command = [sys.executable, "-c", WORKER, str(job.out / "job.json"), str(processes)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not any(line["step"] >= 3 for line in read_metrics(job.out / "metrics.jsonl")):
        assert worker.poll() is None, worker.communicate()[0][-3000:]
        assert time.monotonic() < deadline, "the trainer did not get there"
        time.sleep(0.05)
    return worker, psutil.Process(worker.pid).children(recursive=True)


def assert_all_end(processes, seconds):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        process.kill()
    assert alive == []


@pytest.mark.slow
def test_two_ranks_report_once_and_give_the_losses_of_one_process(job, tmp_path):
    alone = dataclasses.replace(job, out=tmp_path / "alone")
    alone.out.mkdir()
    expected, heard = losses(train(alone, processes=1)), losses(train(job, processes=2))
    assert [step for step, _ in heard] == [step for step, _ in expected] == [0, 3, 6, 6, 9, 12, 12]
    assert [loss for _, loss in heard] == pytest.approx([loss for _, loss in expected], abs=1e-5)
    facts = json.loads((job.out / "checkpoint" / "training.json").read_text())
    assert facts["steps_trained"] == 12


def test_losses_are_heard_while_the_trainer_trains(job):
    class HeardEnough(Exception):
        pass

    def hear(message):
        if message["step"] >= 6:
            raise HeardEnough

    # a training without end: waiting for it to be over would hear nothing
    with pytest.raises(HeardEnough):
        train(dataclasses.replace(job, config=ENDLESS), 1, hear)
    assert (job.out / "state.safetensors").exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_worker_leaves_a_saved_state_and_no_process(job, processes):
    worker, trainers = start_worker(dataclasses.replace(job, config=ENDLESS), processes)
    assert sum("devopsgpt_model.train" in each.cmdline() for each in trainers) >= processes
    worker.send_signal(signal.SIGINT)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode != 0
    assert_all_end(trainers, 1)
    assert "start it again to go on from there" in output
    assert (job.out / "state.safetensors").exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_trainer_outlives_a_worker_that_was_killed(job, processes):
    worker, trainers = start_worker(dataclasses.replace(job, config=ENDLESS), processes)
    worker.kill()
    worker.communicate()
    assert_all_end(trainers, 30)
    assert (job.out / "state.safetensors").exists()


def test_a_trainer_that_does_not_end_is_killed_in_time(monkeypatch):
    monkeypatch.setattr("devopsgpt_pipeline.training.launcher.AGENT_GRACE_S", 0.1)
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); "
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        LocalLauncher(termination_timeout_s=0.1)._terminate(process)
        assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_micro_batches_that_several_processes_cannot_share_are_told(job):
    with pytest.raises(Exception, match="must be a multiple of the 3 processes, got 4"):
        train(job, processes=3)


@pytest.mark.parametrize(
    ("gpus", "accum", "device", "expected"),
    [
        (0, 4, "auto", 1),
        (1, 4, "auto", 1),
        (8, 32, "auto", 8),
        (8, 12, "cuda", 6),
        (8, 1, "auto", 1),
        (8, 32, "cpu", 1),
    ],
)
def test_a_training_takes_the_gpus_that_its_micro_batches_can_be_dealt_out_to(
    gpus, accum, device, expected
):
    assert (
        processes_for(dataclasses.replace(CONFIG, grad_accum_steps=accum, device=device), gpus)
        == expected
    )


def test_gpus_are_counted_only_where_there_is_a_driver(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("devopsgpt_pipeline.training.launcher.DEVICES", tmp_path)
    assert visible_gpus() == 0
    (tmp_path / "nvidia0").touch()
    assert visible_gpus() == 2


def test_one_process_needs_no_torchrun(tmp_path):
    assert "torch.distributed.run" not in command_of(tmp_path, 1)
    assert "--nproc-per-node=4" in command_of(tmp_path, 4)


def test_the_launcher_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DEVOPSGPT_HOME", str(tmp_path))
    assert build_launcher(read_settings()) == LocalLauncher()
    monkeypatch.setenv("DEVOPSGPT_PROCESSES", "2")
    assert build_launcher(read_settings()) == LocalLauncher(processes=2)
    monkeypatch.setenv("DEVOPSGPT_LAUNCHER", "kubernetes")
    with pytest.raises(ValueError, match="needs DEVOPSGPT_KUBERNETES_IMAGE, the image of the pod"):
        build_launcher(read_settings())
    monkeypatch.setenv("DEVOPSGPT_KUBERNETES_IMAGE", "registry.example/devopsgpt-pipeline:1")
    launcher = build_launcher(read_settings())
    assert isinstance(launcher, KubernetesLauncher)
    assert (launcher.processes, launcher.home_path, launcher.namespace) == (
        2,
        str(tmp_path),
        "default",
    )
    monkeypatch.setenv("DEVOPSGPT_LAUNCHER", "slurm")
    with pytest.raises(
        ValueError, match="DEVOPSGPT_LAUNCHER must be local or kubernetes, got 'slurm'"
    ):
        build_launcher(read_settings())
    monkeypatch.setenv("DEVOPSGPT_PROCESSES", "all")
    with pytest.raises(
        ValueError, match="DEVOPSGPT_PROCESSES must be a number, 0 for every visible GPU, got 'all'"
    ):
        build_launcher(read_settings())
