import dataclasses
import json
import math
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file, save_file

from devopsgpt_model import evaluate
from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.checkpoint import load_checkpoint, save_checkpoint
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.evaluate import mean_loss
from devopsgpt_model.shutdown import STOPPED, Stopped, StopRequest
from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer, TokenizerError
from devopsgpt_model.train import FAILED, main, train
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_model.training.report import read_metrics
from devopsgpt_model.training.state import save_tensors
from devopsgpt_model.training.step import learning_rate_at
from devopsgpt_model.training.trainer import TrainingDiverged, initial_model
from model.training.running import CONFIG, TEXT, launch, losses, wait_for_step


def test_training_lowers_val_loss_and_leaves_a_checkpoint(job):
    facts = train(job)
    assert facts["val_loss"] < facts["start_val_loss"] - 0.5
    assert facts["start_val_loss"] == pytest.approx(math.log(257), abs=0.3)
    checkpoint = load_checkpoint(job.out / "checkpoint")
    assert checkpoint.training == json.loads((job.out / "result.json").read_text())
    measured = mean_loss(
        checkpoint.model, TokenBins.open(job.bins).tokens("val"), CONFIG.block_size
    )
    assert measured == pytest.approx(facts["val_loss"], abs=1e-6)


def test_val_loss_in_bfloat16_is_that_of_float32_to_the_third_digit(job):
    facts = train(dataclasses.replace(job, config=dataclasses.replace(CONFIG, dtype="bfloat16")))
    model = load_checkpoint(job.out / "checkpoint").model
    measured = mean_loss(model, TokenBins.open(job.bins).tokens("val"), CONFIG.block_size)
    assert measured == pytest.approx(facts["val_loss"], rel=1e-3)
    assert measured != facts["val_loss"]


def test_the_same_seed_gives_the_same_losses(job, tmp_path):
    again = dataclasses.replace(job, out=tmp_path / "again")
    other = dataclasses.replace(
        job, out=tmp_path / "other", config=dataclasses.replace(CONFIG, seed=2)
    )
    for each in (job, again, other):
        train(each)
    assert losses(job) == losses(again) != losses(other)


def test_the_tokenizer_is_read_before_the_first_step(job):
    """A damaged one is told at once, and the checkpoint gets the one that was trained with."""
    (job.bins / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError):
        train(job)
    assert not (job.out / "metrics.jsonl").exists()


def test_metrics_are_reported_at_the_configured_steps(job):
    train(job)
    lines = losses(job)
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 10, 20, 30]
    assert [line["step"] for line in lines if "train_loss" in line] == [
        4,
        8,
        10,
        12,
        16,
        20,
        24,
        28,
        30,
    ]


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        *(
            pytest.param(each, {}, marks=pytest.mark.slow)
            for each in (signal.SIGINT, signal.SIGTERM)
        ),
        pytest.param(
            signal.SIGKILL, {"dtype": "bfloat16", "compile": "on"}, marks=pytest.mark.slow
        ),
        *((signal.SIGKILL, each) for each in ({}, {"optimizer": "muon"})),
    ],
)
def test_a_killed_run_ends_with_the_losses_of_one_that_never_was(job, tmp_path, number, settings):
    job = dataclasses.replace(
        job, config=dataclasses.replace(CONFIG, max_steps=300, eval_interval=25, **settings)
    )
    whole = dataclasses.replace(job, out=tmp_path / "whole")
    output, errors = launch(whole).communicate(timeout=100)
    assert ("compiled" in output) == ("compile" in settings), errors
    process = launch(job)
    wait_for_step(job, 60)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == STOPPED
        assert "start it again" in errors
    process = launch(job)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert "resuming at step" in output
    assert losses(job) == losses(whole)
    ours, theirs = (load_checkpoint(each.out / "checkpoint").model for each in (job, whole))
    assert torch.equal(ours.wte.weight, theirs.wte.weight)


def test_the_trainer_does_not_outlive_its_parent(job):
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    config = dataclasses.replace(CONFIG, max_steps=1_000_000, eval_interval=1_000_000)
    process = launch(dataclasses.replace(job, config=config, parent_pid=parent.pid))
    wait_for_step(job, 4)
    parent.kill()  # and its entry stays: nobody asks for its status before the trainer has ended
    process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert (job.out / "state.safetensors").exists()
    parent.wait()


@pytest.mark.parametrize(("patience", "status"), [("0.2", STOPPED), ("None", 0)])
def test_a_process_that_hangs_ends_some_time_after_its_parent_where_it_may(patience, status):
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    code = f"""
import time
from devopsgpt_model.shutdown import StopRequest
stop = StopRequest({patience})
stop.without({parent.pid})
while not stop.made:
    time.sleep(0.01)
time.sleep(2)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    parent.kill()
    parent.wait()
    assert process.wait(timeout=30) == status


def test_a_trainer_waits_for_one_that_works_in_its_folder_still(job):
    endless = dataclasses.replace(CONFIG, max_steps=1_000_000, eval_interval=1_000_000)
    first = launch(dataclasses.replace(job, config=endless))
    wait_for_step(job, 4)
    second = launch(job)
    assert "another trainer works in" in second.stdout.readline()
    before = read_metrics(job.out / "metrics.jsonl")[-1]["step"]
    wait_for_step(job, before + 8)  # undisturbed
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=30)
    assert first.returncode == STOPPED
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert [line["step"] for line in losses(job) if "val_loss" in line] == [0, 10, 20, 30]


def test_a_stop_is_heard_between_two_passes_of_a_step(job, monkeypatch):
    accumulating = dataclasses.replace(CONFIG, grad_accum_steps=4, max_steps=6, eval_interval=3)
    job = dataclasses.replace(job, config=accumulating)
    whole = dataclasses.replace(job, out=job.out.parent / "whole")
    train(whole)
    stop, batch, drawn = StopRequest(), ShuffledWindows.batch, []

    def stop_in_the_fifth_step(self, number):
        drawn.append(number)
        stop.made = number == 4 * 4 + 1
        return batch(self, number)

    monkeypatch.setattr(ShuffledWindows, "batch", stop_in_the_fifth_step)
    with pytest.raises(Stopped, match="stopped after step 4; start it again"):
        train(job, stop)
    assert drawn[-1] == 4 * 4 + 1
    assert train(job)["steps_trained"] == 6
    assert losses(job) == losses(whole)


def test_a_stop_is_heard_between_two_passes_of_an_evaluation(job, monkeypatch):
    whole = dataclasses.replace(job, out=job.out.parent / "whole")
    train(whole)
    stop, look = StopRequest(), evaluate._losses
    monkeypatch.setattr("devopsgpt_model.evaluate.EVALUATION_TOKENS", {"cpu": CONFIG.block_size})

    def stop_in_the_second_evaluation(*arguments):
        stop.made = bool(read_metrics(job.out / "metrics.jsonl"))
        return look(*arguments)

    monkeypatch.setattr("devopsgpt_model.evaluate._losses", stop_in_the_second_evaluation)
    with pytest.raises(Stopped, match="stopped after step 10; start it again"):
        train(job, stop)
    assert [line["step"] for line in losses(job) if "val_loss" in line] == [0]
    assert train(job)["steps_trained"] == 30
    assert [line["step"] for line in losses(job)] == [line["step"] for line in losses(whole)]


def test_a_run_killed_before_its_first_save_reports_each_step_once(job):
    config = dataclasses.replace(CONFIG, max_steps=300, eval_interval=100)
    process = launch(dataclasses.replace(job, config=config))
    wait_for_step(job, 20)
    process.kill()
    process.communicate()
    assert not (job.out / "state.safetensors").exists()
    train(dataclasses.replace(job, config=dataclasses.replace(config, max_steps=20)))
    lines = losses(job)
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 20]
    assert [line["step"] for line in lines if "train_loss" in line] == [4, 8, 12, 16, 20]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_best(job):
    config = dataclasses.replace(CONFIG, learning_rate=1e30, min_learning_rate=1e30, grad_clip=0.0)
    with pytest.raises(
        TrainingDiverged, match=r"not finite at step \d+; the best checkpoint is of step 0"
    ):
        train(dataclasses.replace(job, config=config))
    check_best_is_the_start(job)


def check_best_is_the_start(job):
    best = load_checkpoint(job.out / "checkpoint").model
    fresh = initial_model(job.config, None, 257)
    idx = torch.arange(32)[None]
    assert torch.equal(best.eval()(idx)[0], fresh(idx)[0])
    assert not (job.out / "result.json").exists()  # which would say that the run is complete


def test_a_last_step_that_breaks_the_weights_is_noticed_by_the_evaluation_after_it(job):
    config = dataclasses.replace(
        CONFIG, max_steps=1, learning_rate=1e30, min_learning_rate=1e30, warmup_steps=0
    )
    with pytest.raises(
        TrainingDiverged, match="val_loss is not finite at step 1; the best checkpoint is of step 0"
    ):
        train(dataclasses.replace(job, config=config))
    check_best_is_the_start(job)


def test_weights_that_are_broken_from_the_start_leave_no_checkpoint(job, checkpoint_folder):
    weights = load_file(checkpoint_folder / "model.safetensors")
    weights["transformer.ln_f.weight"][0] = float("nan")
    save_file(weights, checkpoint_folder / "model.safetensors")
    config = dataclasses.replace(CONFIG, init_from=str(checkpoint_folder))
    with pytest.raises(
        TrainingDiverged, match="val_loss is not finite at step 0; no checkpoint was good"
    ):
        train(dataclasses.replace(job, config=config, init_checkpoint=checkpoint_folder))
    assert not (job.out / "checkpoint").exists()


def test_early_stopping_ends_a_run_that_no_longer_gains(job):
    config = dataclasses.replace(CONFIG, learning_rate=1e-12, patience=2, max_steps=1000)
    facts = train(dataclasses.replace(job, config=config))
    assert facts["steps_trained"] < 1000


def test_training_starts_from_a_checkpoint(job, tmp_path):
    first = train(job)
    config = dataclasses.replace(CONFIG, init_from=str(job.out / "checkpoint"), dropout=0.0)
    second = dataclasses.replace(
        job, config=config, out=tmp_path / "more", init_checkpoint=job.out / "checkpoint"
    )
    assert train(second)["start_val_loss"] == pytest.approx(first["val_loss"], abs=1e-6)


def test_dropout_is_the_settings_whatever_the_checkpoint_was_trained_with(job, checkpoint_folder):
    def hidden(dropout):
        config = dataclasses.replace(CONFIG, init_from=str(checkpoint_folder), dropout=dropout)
        torch.manual_seed(1)
        return initial_model(config, checkpoint_folder, 257).train().hidden(torch.arange(32)[None])

    assert torch.equal(hidden(0.0), hidden(0.0))
    assert not torch.allclose(hidden(0.5), hidden(0.0), atol=0.1)
    model = initial_model(dataclasses.replace(CONFIG, dropout=0.3), checkpoint_folder, 257)
    places = [
        model.config.dropout,
        *(part.dropout for block in model.h for part in (block.attn, block.mlp)),
    ]
    assert places == [0.3] * 5


def test_a_checkpoint_of_another_vocabulary_is_refused(job, tmp_path, bpe_tokenizer):
    train(job)
    documents = {"train": [("t", TEXT)], "val": [("v", TEXT)]}
    write_token_bins(tmp_path / "bpe", "toy", bpe_tokenizer, documents)
    config = dataclasses.replace(CONFIG, init_from=str(job.out / "checkpoint"))
    other = TrainingJob(
        config=config,
        bins=tmp_path / "bpe",
        out=tmp_path / "o",
        init_checkpoint=job.out / "checkpoint",
    )
    with pytest.raises(ValueError, match="have a vocabulary of"):
        train(other)


def test_a_window_longer_than_the_checkpoints_context_is_refused(job):
    train(job)
    config = dataclasses.replace(CONFIG, block_size=64)
    with pytest.raises(
        ValueError, match="block_size must be at most the checkpoint's context of 32, got 64"
    ):
        initial_model(config, job.out / "checkpoint", 257)


def test_errors_are_told_in_one_line_with_a_status(job, capsys):
    job.out.mkdir(parents=True)
    path = job.out / "train.json"
    job.write(path)
    (job.bins / "train.bin").write_bytes(b"")
    assert main(["--config", str(path)]) == FAILED
    assert "materialize token_bins again" in capsys.readouterr().err
    assert "materialize token_bins again" in (job.out / "failure.txt").read_text()
    assert main(["--config", str(job.out / "nowhere.json")]) == FAILED
    assert "no training job" in capsys.readouterr().err


def test_unknown_settings_in_a_job_are_refused(job):
    job.out.mkdir(parents=True)
    path = job.out / "train.json"
    job.write(path)
    content = json.loads(path.read_text())
    content["config"]["learning_rat"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="unknown training setting 'learning_rat'"):
        TrainingJob.read(path)


@contextmanager
def small_files_only():
    """No file of over 1,000 bytes, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_state_that_cannot_be_saved_leaves_the_last_one(job):
    path = job.out / "state.safetensors"
    job.out.mkdir(parents=True)
    save_tensors(path, {"a": torch.ones(1)}, {})
    before = path.read_bytes()
    with small_files_only(), pytest.raises(OSError, match=r"(?i)large.*the one before it is whole"):
        save_tensors(path, {"a": torch.ones(100_000)}, {})
    assert path.read_bytes() == before
    assert sorted(each.name for each in job.out.iterdir()) == ["state.safetensors"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(checkpoint_folder, tiny_gpt):
    before = (checkpoint_folder / "model.safetensors").read_bytes()
    with (
        small_files_only(),
        pytest.raises(OSError, match=r"(?i)checkpoint could not be written.*large.*make room"),
    ):
        save_checkpoint(checkpoint_folder, tiny_gpt, Tokenizer.plain_bytes(), {})
    assert (checkpoint_folder / "model.safetensors").read_bytes() == before


def test_a_damaged_state_is_told_and_left_to_a_person(job):
    train(job)
    state = job.out / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=r"state\.safetensors is damaged .* remove it to start this training from"
    ):
        train(job)


def test_learning_rate_rises_then_falls_to_its_end():
    config = TrainingConfig(
        learning_rate=1.0, min_learning_rate=0.1, warmup_steps=10, max_steps=110
    )
    assert learning_rate_at(0, config) == pytest.approx(0.1)
    assert learning_rate_at(9, config) == pytest.approx(1.0)
    assert learning_rate_at(60, config) == pytest.approx(0.55)
    assert learning_rate_at(110, config) == pytest.approx(0.1)


def test_a_bare_machine_needs_no_dagster_and_no_mlflow(job):
    code = (
        "import sys, devopsgpt_model.train; print([m for m in ('dagster', 'mlflow', 'fastapi') if "
        "m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert answer.stdout.strip() == "[]"
