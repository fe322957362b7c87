import dataclasses

import pytest

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.train import train
from devopsgpt_model.training import report
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_model.training.report import ReportError, read_metrics

CONFIG = TrainingConfig(
    **dict(
        n_layer=1, n_head=2, n_embd=16, block_size=16, batch_size=2, max_steps=20, warmup_steps=2
    ),
    **dict(eval_interval=10, log_interval=5, device="cpu", dtype="float32"),
)


@pytest.fixture
def job(tmp_path):
    documents = {"train": [("t", "a steady service " * 40)], "val": [("v", "a slow answer " * 10)]}
    write_token_bins(tmp_path / "bins", "toy", Tokenizer.plain_bytes(), documents)
    return TrainingJob(config=CONFIG, bins=tmp_path / "bins", out=tmp_path / "out")


def delivered(client, run_id, key):
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def test_a_server_that_is_down_costs_no_training_and_gets_everything_later(
    job, registry, mlflow_server, monkeypatch
):
    monkeypatch.setattr(report, "DELIVERY_DEADLINE_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_id = registry.create_run("0").info.run_id
    down = dataclasses.replace(job, mlflow_tracking_uri="http://127.0.0.1:9", mlflow_run_id=run_id)
    with pytest.raises(
        ReportError, match=r"MLflow at http://127.0.0.1:9 did not take the last metrics"
    ):
        train(down)
    assert load_checkpoint(job.out / "checkpoint").training["steps_trained"] == 20
    up = dataclasses.replace(down, mlflow_tracking_uri=mlflow_server.url)
    train(up)
    lines = read_metrics(job.out / "metrics.jsonl")
    for key in ("train_loss", "val_loss"):
        assert delivered(registry, run_id, key) == [
            (line["step"], line[key]) for line in lines if key in line
        ]
    train(up)  # a third start sends nothing twice
    assert [step for step, _ in delivered(registry, run_id, "val_loss")] == [0, 10, 20]


def test_a_line_cut_short_by_a_kill_does_not_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
