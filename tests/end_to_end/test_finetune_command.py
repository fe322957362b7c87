"""`devopsgpt finetune` as a person types it, once and as a sweep, in a home of its own."""

import os
import re
import subprocess
import sys

import pytest

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, connect, experiment_id
from devopsgpt_pipeline.tracking.runs import PARENT_TAG

TINY = [
    *(
        "n_layer=1",
        "n_head=2",
        "n_embd=32",
        "block_size=64",
        "batch_size=4",
        "max_steps=20",
        "warmup_steps=2",
    ),
    *("eval_interval=10", "log_interval=5", "device=cpu", "dtype=float32"),
]


def finetune(home, *options):
    settings = [word for setting in TINY for word in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "devopsgpt_pipeline.cli",
        "finetune",
        "sample",
        *settings,
        *options,
    ]
    environment = {**os.environ, "DEVOPSGPT_HOME": str(home.path), "DEVOPSGPT_PROFILE": "sample"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_settings_of_ones_own_and_a_sweep_each_end_at_the_gate(tmp_path):
    home = Home(tmp_path / "home")
    finetune(home, "--set", "learning_rate=1e-3")
    first = home.finetuned_facts()
    assert (first["config"]["learning_rate"], first["steps_trained"]) == (1e-3, 20)

    told = finetune(home, "--sweep", "learning_rate=1e-5,1e-2")
    assert re.findall(r"best: (.+)", told) == ["learning_rate=1e-2"] * 2
    best = home.finetuned_facts()
    assert best["config"]["learning_rate"] == 1e-2
    assert best["val_loss"] < first["val_loss"]

    server = servers.mlflow_server(home, servers.free_port())
    with servers.running([server]):
        client = connect(server.url)
        champion = client.get_model_version_by_alias(MODEL_NAME, CHAMPION)
        assert champion.run_id == best["mlflow_run_id"]
        runs = client.search_runs([experiment_id(client)])
        children = [run.data.params["learning_rate"] for run in runs if PARENT_TAG in run.data.tags]
        assert sorted(children) == ["0.01", "1e-05"]
