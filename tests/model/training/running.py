"""A toy training: its settings and data, started as a process, and what it reported."""

import subprocess
import sys
import time

from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.training.report import read_metrics

TEXT = "a steady service answers; a slow service makes its users wait. " * 60
CONFIG = TrainingConfig(
    **dict(
        n_layer=2, n_head=2, n_embd=32, block_size=32, batch_size=4, max_steps=30, warmup_steps=5
    ),
    **dict(
        eval_interval=10,
        log_interval=4,
        learning_rate=3e-3,
        device="cpu",
        dtype="float32",
        dropout=0.1,
        compile="off",
    ),
)


def launch(job):
    """The trainer as a process of its own, the way that the pipeline starts it."""
    job.out.mkdir(parents=True, exist_ok=True)
    job.write(job.out / "train.json")
    command = [
        sys.executable,
        "-m",
        "devopsgpt_model.train",
        "--config",
        str(job.out / "train.json"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(job, step):
    deadline = time.monotonic() + 60
    while not any(line["step"] >= step for line in read_metrics(job.out / "metrics.jsonl")):
        assert time.monotonic() < deadline, "the trainer did not get there"
        time.sleep(0.02)


def losses(job):
    keys = ("train_loss", "val_loss")
    return [
        {k: line[k] for k in ("step", *keys) if k in line}
        for line in read_metrics(job.out / "metrics.jsonl")
    ]
