"""torchrun with two gloo ranks on a CPU against one process with the same global batch."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from safetensors import safe_open

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.train import train
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.saver import STATE_FILE
from devopsgpt_model.training.state import MODEL
from devopsgpt_model.training.step import TrainingStep
from devopsgpt_pipeline.local.servers import free_port
from model.training.running import CONFIG, launch, losses, wait_for_step

FOUR_MICRO_BATCHES = dataclasses.replace(CONFIG, batch_size=2, grad_accum_steps=4, max_steps=20)


ONE_MACHINE = ("--standalone", "--nproc-per-node=2")


def torchrun(job, python=sys.executable, environment=os.environ, where=ONE_MACHINE):
    job.out.mkdir(parents=True, exist_ok=True)
    job.write(job.out / "train.json")
    start = [python, "-m", "torch.distributed.run", *where]
    return subprocess.Popen(
        [*start, "-m", "devopsgpt_model.train", "--config", str(job.out / "train.json")],
        env={**environment, "OMP_NUM_THREADS": "1"},
        cwd=job.out,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors[-3000:]
    return output


def assert_close(ours, theirs, tolerance=1e-5):
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(expected, abs=tolerance)


def distributions(names):
    """Those that are installed, and all that they ask pip for."""
    waiting, found = list(names), {}
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):  # of another platform
            found[name] = metadata.distribution(name)
            wanted = [each for each in found[name].requires or [] if "extra ==" not in each]
            waiting += [re.match(r"[\w.-]+", each)[0] for each in wanted]
    return found.values()


@pytest.fixture
def bare_machine(tmp_path):
    """A Python, and the environment in which it finds the trainer, torch, numpy, tiktoken and
    safetensors alone."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "devopsgpt_model").symlink_to(REPOSITORY / "devopsgpt_model")
    for each in distributions(["torch", "numpy", "tiktoken", "safetensors"]):
        for top in {file.parts[0] for file in each.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(each.locate_file(top))
    # the interpreter itself, outside of any virtual environment
    python = str(Path(sys.executable).resolve())
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1"}
    for absent in ("dagster", "mlflow", "devopsgpt_pipeline"):
        answer = subprocess.run(
            [python, "-c", f"import {absent}"], env=environment, capture_output=True, cwd=tmp_path
        )
        assert b"ModuleNotFoundError" in answer.stderr
    return python, environment


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_in_bfloat16_and_compiled_give_the_losses_of_one(
    job,
    tmp_path,
    parallel,
):
    config = dataclasses.replace(
        FOUR_MICRO_BATCHES, parallel=parallel, dtype="bfloat16", compile="on"
    )
    job = dataclasses.replace(job, config=config)
    alone = dataclasses.replace(job, out=tmp_path / "alone")
    assert "bfloat16, compiled" in finish(launch(alone))
    assert f"bfloat16, compiled, 2 processes ({parallel})" in finish(torchrun(job))
    # products of eight bits: another order of a sum rounds otherwise
    assert_close(losses(job), losses(alone), 1e-3)


@pytest.mark.parametrize(
    ("parallel", "optimizer"),
    [
        ("ddp", "adamw"),
        # Muon puts shards together, orthogonalizes whole matrices and shards them again
        ("fsdp", "muon"),
        pytest.param("fsdp", "adamw", marks=pytest.mark.slow),
        pytest.param("ddp", "muon", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_on_a_bare_machine_give_the_losses_of_one(
    job,
    tmp_path,
    parallel,
    optimizer,
    bare_machine,
):
    config = dataclasses.replace(FOUR_MICRO_BATCHES, parallel=parallel, optimizer=optimizer)
    job = dataclasses.replace(job, config=config)
    alone = dataclasses.replace(job, out=tmp_path / "alone")
    train(alone)
    output = finish(torchrun(job, *bare_machine))
    assert output.count("starting:") == 1  # rank 0 alone reports
    assert f"2 processes ({parallel})" in output
    assert_close(losses(job), losses(alone))
    ours, theirs = (load_checkpoint(each.out / "checkpoint").training for each in (job, alone))
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-5)


@pytest.mark.slow
def test_two_machines_give_the_losses_of_one(job, tmp_path):
    """Two agents of torchrun that meet at an address, as docs/operations.md starts them."""
    job = dataclasses.replace(job, config=FOUR_MICRO_BATCHES)
    meeting = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{free_port()}",
    ]
    agents = [torchrun(job, where=meeting) for _ in range(2)]
    outputs = [finish(agent) for agent in agents]
    assert sorted(output.count("2 processes (ddp)") for output in outputs) == [0, 1]
    alone = dataclasses.replace(job, out=tmp_path / "alone")
    train(alone)
    assert_close(losses(job), losses(alone))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_go_on_where_they_were_stopped(job, tmp_path, parallel, optimizer):
    settings = {"parallel": parallel, "optimizer": optimizer}
    config = dataclasses.replace(FOUR_MICRO_BATCHES, max_steps=120, eval_interval=30, **settings)
    job = dataclasses.replace(job, config=config)
    process = torchrun(job)
    wait_for_step(job, 40)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    output = finish(torchrun(job))
    assert "resuming at step" in output
    alone = dataclasses.replace(job, out=tmp_path / "alone")
    train(alone)
    assert_close(losses(job), losses(alone))


@pytest.mark.slow
def test_sharded_ranks_killed_after_a_save_go_on_to_the_bit(job, tmp_path):
    """The save follows an evaluation, which leaves FSDP's root whole unless it is sharded again."""
    config = dataclasses.replace(
        FOUR_MICRO_BATCHES,
        **dict(max_steps=40, eval_interval=10, log_interval=1, parallel="fsdp", patience=0),
    )
    job = dataclasses.replace(job, config=config)
    alone = dataclasses.replace(job, out=tmp_path / "alone")
    finish(torchrun(alone))
    process = torchrun(job)
    wait_for_step(job, 21)  # a state is written at 10 and at 20
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [*map(int, workers), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    with safe_open(job.out / STATE_FILE, "pt") as file:
        names = set(file.keys())
    weights = {name.removeprefix(MODEL) for name in names if name.startswith(MODEL)}
    assert {f"optimizer.{name}.exp_avg" for name in weights} <= names
    assert "resuming at step" in finish(torchrun(job))
    assert losses(job) == losses(alone)


def test_micro_batches_that_cannot_be_dealt_out_are_refused(tiny_gpt, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = dataclasses.replace(CONFIG, grad_accum_steps=3)
    with pytest.raises(ValueError, match="must be a multiple of the 2 processes, got 3"):
        TrainingStep(tiny_gpt, config, torch.device("cpu"), None, Ranks())


@pytest.mark.parametrize(
    ("wanted", "ranks", "asked_for"),
    [
        ("cuda:1", 1, "cuda:1"),
        ("cuda", 1, "cuda"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda", 4, "cuda:3"),
        ("cuda:0", 4, "cuda:3"),
        ("auto", 4, "cuda:3"),
        ("cpu", 4, "cpu"),
    ],
)
def test_a_rank_asks_for_its_own_gpu_alone(monkeypatch, wanted, ranks, asked_for):
    """What is asked of the driver, on a machine that seems to have GPUs."""
    current, asked = [], []
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setenv("LOCAL_RANK", str(ranks - 1))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    monkeypatch.setattr("torch.empty", lambda size, device: asked.append(device))
    assert Ranks().device(wanted) == torch.device(asked_for)
    assert {torch.device(each) for each in asked} <= {torch.device(asked_for)}
    assert current == [torch.device(asked_for)] * (":" in asked_for)
