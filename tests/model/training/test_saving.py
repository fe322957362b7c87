"""Kills and full disks while a run's state is being written."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.train import FAILED, train
from devopsgpt_model.training.saver import ASSUMED_SPEED, SnapshotWriter
from devopsgpt_model.training.state import save_tensors
from devopsgpt_model.training.trainer import TrainingDiverged
from model.training.running import CONFIG, launch, losses

CPU = torch.device("cpu")
# 0.4M parameters: a state of 5 MB, saved after every step
SAVING = dataclasses.replace(CONFIG, n_embd=128, max_steps=40, eval_interval=1, log_interval=1)

# Children that only save, each forked from the same warm process and killed at a moment of its own.
KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors import safe_open
from devopsgpt_model.training.saver import SnapshotWriter
from devopsgpt_model.training.state import save_tensors

path, chance, last = Path(sys.argv[1]), random.Random(1), 0
# OpenMP's threads do not come along into a fork, which would wait for them
torch.set_num_threads(1)
staging, interrupted = path.with_name(f".{path.name}.tmp"), 0

def save_for_ever(number):
    saver = SnapshotWriter(torch.device("cpu"))
    while True:
        number += 1
        tensors = {name: torch.full((300_000,), number, dtype=torch.int64) for name in "ab"}
        facts = {"number": str(number)}
        saver.save(tensors.items(), lambda copy, facts=facts: save_tensors(path, copy, facts))

for _ in range(60):
    child = os.fork()
    if not child:
        save_for_ever(last)
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:  # it saves; how soon, the machine decides
        time.sleep(0.001)
    time.sleep(0.03 * chance.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    interrupted += staging.exists()
    with safe_open(path, "pt") as file:
        number = int(file.metadata()["number"])
        assert all(bool((file.get_tensor(name) == number).all()) for name in "ab"), "a torn state"
    assert number >= last, "an older state"
    last = number
save_tensors(path, {}, {"number": str(last)})
print(last, interrupted, len(list(path.parent.iterdir())))
"""


def test_a_kill_while_saving_leaves_the_last_good_state(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {name: torch.zeros(1, dtype=torch.int64) for name in "ab"}, {"number": "0"})
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    saved, interrupted, files = map(int, answer.stdout.split())
    assert saved >= 60
    assert interrupted >= 5, "no kill met a save"
    assert files == 1, "the next save clears away what a killed one left"


@pytest.mark.slow
def test_a_run_killed_while_saving_again_and_again_ends_bit_same(job, tmp_path):
    job = dataclasses.replace(job, config=SAVING)
    whole = dataclasses.replace(job, out=tmp_path / "whole")
    train(whole)
    chance = random.Random(1)
    for _ in range(4):
        process = launch(job)
        while not (job.out / ".state.safetensors.tmp").exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.3 * chance.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with safe_open(job.out / "state.safetensors", "pt") as file:
            assert "progress" in file.metadata()
    process = launch(job)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert losses(job) == losses(whole)
    ours, theirs = (load_checkpoint(each.out / "checkpoint").model for each in (job, whole))
    assert torch.equal(ours.wte.weight, theirs.wte.weight)


def small_disk_is_allowed():
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode
    )


@pytest.mark.skipif(
    not small_disk_is_allowed(), reason="this system mounts no file system for a user"
)
def test_a_full_disk_ends_the_run_with_its_reason_and_the_last_good_state(
    job,
    tmp_path,
):
    job = dataclasses.replace(job, config=dataclasses.replace(SAVING, max_steps=3))
    whole = dataclasses.replace(job, out=tmp_path / "whole")
    train(whole)
    weights = (whole.out / "best.safetensors").stat().st_size
    job.out.mkdir()
    job.write(tmp_path / "train.json")
    # the first save takes the weights four times, the second would take them three times more
    room, after = int(5.5 * weights), tmp_path / "after"
    inside = (
        f"mount -t tmpfs -o size={room} none {job.out} && "
        f"{sys.executable} -m devopsgpt_model.train --config {tmp_path / 'train.json'}; "
        f"status=$?; cp -r {job.out} {after}; exit $status"
    )
    answer = subprocess.run(
        ["unshare", "-rm", "sh", "-c", inside], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == FAILED
    assert "training failed" in answer.stderr
    assert "No space left on device" in answer.stderr
    assert "make room and start again" in (after / "failure.txt").read_text()
    assert "Traceback" not in answer.stderr
    with safe_open(after / "state.safetensors", "pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 1
    resumed = dataclasses.replace(job, out=after)
    train(resumed)
    assert losses(resumed) == losses(whole)


def test_the_steps_go_on_while_a_save_is_written():
    go_on, written = threading.Event(), []

    def write(snapshot):
        go_on.wait(10)
        written.append(float(snapshot["w"].sum()))

    weights = torch.ones(3)
    with SnapshotWriter(weights.device) as saver:
        saver.save([("w", weights)], write)
        assert not written
        weights += 1  # the next step; what is saved is the moment of the save
        go_on.set()
    assert written == [3.0]


def test_a_large_state_is_saved_as_often_as_a_tenth_of_the_time_allows(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("devopsgpt_model.training.saver.time.monotonic", lambda: now[0])

    def write_for(seconds):
        def write(copy):
            now[0] += seconds

        return write

    with SnapshotWriter(CPU) as saver:
        assert saver.due(int(0.9 * ASSUMED_SPEED))  # a second's worth is never put off
        assert not saver.due(int(2 * ASSUMED_SPEED))
        now[0] += 18.1
        assert saver.due(int(2 * ASSUMED_SPEED))
        saver.save([("w", torch.ones(1))], write_for(5.0))
        saver.wait()
        now[0] += 44.9  # what was measured counts from now on
        assert not saver.due(int(2 * ASSUMED_SPEED))
        now[0] += 0.2
        assert saver.due(int(2 * ASSUMED_SPEED))
        saver.save([("w", torch.ones(1))], write_for(0.5))
        saver.wait()
        assert saver.due(int(2 * ASSUMED_SPEED))


def test_a_run_whose_saves_were_put_off_leaves_its_best_weights_and_a_small_state(
    job, tmp_path, monkeypatch
):
    # it gains, then loses
    config = dataclasses.replace(CONFIG, max_steps=40, learning_rate=0.1, min_learning_rate=0.1)
    often, seldom = (
        dataclasses.replace(job, config=config, out=tmp_path / name) for name in ("often", "seldom")
    )
    train(often)
    monkeypatch.setattr(SnapshotWriter, "due", lambda self, size: False)
    facts = train(seldom)
    assert 0 < facts["step"] < 40
    ours, theirs = (load_checkpoint(each.out / "checkpoint").model for each in (seldom, often))
    assert torch.equal(ours.wte.weight, theirs.wte.weight)
    assert (seldom.out / "state.safetensors").stat().st_size < 2000
    assert train(seldom) == facts  # a finished run has nothing to do


def test_a_run_that_diverges_between_two_saves_leaves_its_best_weights(
    job,
    monkeypatch,
):
    monkeypatch.setattr(SnapshotWriter, "due", lambda self, size: False)
    config = dataclasses.replace(CONFIG, learning_rate=1e30, min_learning_rate=1e30, grad_clip=0.0)
    with pytest.raises(TrainingDiverged):
        train(dataclasses.replace(job, config=config))
    best = load_file(job.out / "best.safetensors")
    assert all(torch.isfinite(weight).all() for weight in best.values())


def test_a_writers_error_is_raised_in_the_trainer():
    def fail(snapshot):
        raise OSError("no room")

    saver = SnapshotWriter(CPU)
    saver.save([("a", torch.ones(1))], fail)
    with pytest.raises(OSError, match="no room"):
        saver.save([("a", torch.ones(1))], fail)
    with pytest.raises(OSError, match="no room"), saver:
        saver.save([("a", torch.ones(1))], fail)
    saver.wait()  # told once


def test_what_is_written_is_the_moment_of_the_save():
    weights, written = torch.zeros(1000), []

    def write(snapshot):
        time.sleep(0.05)
        written.append(snapshot["w"].clone())

    with SnapshotWriter(CPU) as saver:
        saver.save([("w", weights)], write)
        weights += 1
        saver.save([("w", weights)], write)
        weights += 1
    assert [float(each.mean()) for each in written] == [0.0, 1.0]
