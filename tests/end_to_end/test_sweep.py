"""A sweep through a real Dagster instance and a real MLflow server, on token bins of its own."""

import os
import re
import subprocess
import sys
import time

import dagster as dg
import pytest
from click.testing import CliRunner

from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.definitions import build_definitions
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import chain
from devopsgpt_pipeline.local.grid import grid
from devopsgpt_pipeline.local.sweep import Sweep
from devopsgpt_pipeline.profiles import PROFILES
from devopsgpt_pipeline.settings import Settings
from devopsgpt_pipeline.sources.books import books_of_profile
from devopsgpt_pipeline.tracking.client import connect, experiment_id
from devopsgpt_pipeline.tracking.runs import PARENT_TAG, TRIAL_TAG

TINY = [
    *(
        "n_layer=1",
        "n_head=2",
        "n_embd=32",
        "block_size=32",
        "batch_size=4",
        "max_steps=20",
        "warmup_steps=2",
    ),
    *("eval_interval=10", "log_interval=5", "device=cpu", "dtype=float32", "grad_clip=0"),
]
# What `devopsgpt finetune --sweep` does around its trials, without the books: a process to be
# killed.
PROGRAM = """
import sys
from pathlib import Path
import dagster as dg
sys.path.insert(0, sys.argv[3])
from test_sweep import TINY, definitions_for
from devopsgpt_pipeline.local import chain
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local.progress import ChainProgress
from devopsgpt_pipeline.tracking.client import connect
from devopsgpt_pipeline.local.grid import grid
from devopsgpt_pipeline.local.sweep import Sweep

home = Home(Path(sys.argv[1]))
trials = grid("sample", [*TINY, "max_steps=200"], ["seed=1,2"])
with dg.DagsterInstance.get() as instance, ChainProgress() as progress:
    chain.end_abandoned_runs(instance)
    sweep = Sweep(home, connect(sys.argv[2]), "sample", trials, "books")
    job = definitions_for(home, sys.argv[2]).resolve_job_def("sweep_trial")
    outcomes = sweep.run(job, instance, progress)
    print(sweep.parent, [outcome.trial.name for outcome in outcomes])
"""


def definitions_for(home, url):
    return build_definitions(
        Settings(home=home.path, tracking_uri=url), PROFILES["sample"], books_of_profile("sample")
    )


class Told:
    """A progress that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    def __call__(self, entry):
        pass


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home").prepare()
    text = "a steady service answers; a slow service makes its users wait. " * 60
    documents = {"train": [("t", text)], "val": [("v", "a slow answer makes a service wait. " * 8)]}
    write_token_bins(home.tokens / "books", "books", Tokenizer.plain_bytes(), documents)
    return home


def test_a_grid_is_every_combination_on_top_of_the_preset():
    trials = grid("sample", ["seed=3"], ["learning_rate=1e-4,3e-4", "max_steps=100,200"])
    assert [trial.name for trial in trials] == [
        *("learning_rate=1e-4 max_steps=100", "learning_rate=1e-4 max_steps=200"),
        *("learning_rate=3e-4 max_steps=100", "learning_rate=3e-4 max_steps=200"),
    ]
    assert (trials[3].config.learning_rate, trials[3].config.max_steps, trials[3].config.seed) == (
        3e-4,
        200,
        3,
    )


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (["lr=1,2"], "unknown training setting 'lr'"),
        (["max_steps=1,many"], "max_steps must be int, got 'many'"),
        (["max_steps=1,0"], "max_steps must be at least 1, got 0"),
        (["seed=1", "seed=2"], "--sweep seed is given twice; put all its values into one"),
        (
            ["learning_rate=1e-4,0.0001"],
            "twice: learning_rate=1e-4, and learning_rate=0.0001; leave one out",
        ),
    ],
)
def test_a_grid_that_cannot_be_is_told_before_anything_starts(axes, told):
    options = [word for axis in axes for word in ("--sweep", axis)]
    answer = CliRunner().invoke(main, ["finetune", "sample", *options])
    assert answer.exit_code == 1
    assert told in answer.output


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_best_child_is_taken_and_a_failed_one_loses_nothing(home, mlflow_server):
    client, told = connect(mlflow_server.url), Told()
    trials = grid("sample", TINY, ["learning_rate=1e-5,1e30,1e-2"])
    definitions = definitions_for(home, mlflow_server.url)
    with dg.DagsterInstance.ephemeral() as instance:
        sweep = Sweep(home, client, "sample", trials, "books")
        outcomes = sweep.run(definitions.resolve_job_def("sweep_trial"), instance, told)
        assert [outcome.trial.name for outcome in outcomes] == [
            f"learning_rate={rate}" for rate in ("1e-2", "1e-5", "1e30")
        ]
        assert "the loss is not finite" in outcomes[2].row()["val_loss"]

        # MLflow's comparison: children of one parent in one experiment, with their settings and a
        # number each
        parent = client.get_run(sweep.parent)
        assert (parent.info.status, parent.data.tags["best_trial"]) == (
            "FINISHED",
            "learning_rate=1e-2",
        )
        children = client.search_runs(
            [experiment_id(client)], f"tags.`{PARENT_TAG}` = '{sweep.parent}'"
        )
        assert {child.data.tags[TRIAL_TAG]: child.info.status for child in children} == {
            **{
                "learning_rate=1e-5": "FINISHED",
                "learning_rate=1e30": "FAILED",
                "learning_rate=1e-2": "FINISHED",
            }
        }
        assert {child.data.params["learning_rate"] for child in children} == {
            "1e-05",
            "1e+30",
            "0.01",
        }
        best = client.get_run(parent.data.tags["best_run"])
        assert (
            best.data.metrics["best_val_loss"]
            == parent.data.metrics["best_val_loss"]
            == outcomes[0].val_loss
        )
        assert len(client.get_metric_history(best.info.run_id, "val_loss")) == 3

        # the best one becomes the checkpoint as it is, in its own MLflow run
        run_config = {
            "ops": {"finetuned_checkpoint": {"config": sweep.settings(outcomes[0].trial)}}
        }
        keys = [dg.AssetKey("finetuned_checkpoint")]
        chain.materialize(
            definitions.resolve_job_def("whole_chain"), instance, told, keys, run_config
        )
    facts = home.finetuned_facts()
    assert (facts["mlflow_run_id"], facts["val_loss"]) == (best.info.run_id, outcomes[0].val_loss)
    assert len(client.get_metric_history(best.info.run_id, "val_loss")) == 3
    assert [path.name for path in home.training.iterdir() if (path / "train.json").exists()] == []
    # a finished sweep starts anew
    assert Sweep(home, client, "sample", trials, "books").parent != sweep.parent


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_sweep_goes_on_under_the_same_parent(home, mlflow_server):
    client = connect(mlflow_server.url)
    environment = os.environ | {"DAGSTER_HOME": str(home.dagster)}
    (home.dagster / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(home.path),
        mlflow_server.url,
        os.path.dirname(__file__),
    ]

    def start():
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with start() as killed:
        for line in killed.stdout:
            if line.startswith("trial 2 of 2"):
                break
        time.sleep(4)
        killed.kill()
    with start() as again:
        try:
            told, _ = again.communicate(timeout=200)
        finally:
            again.kill()
    parent, _, names = told.splitlines()[-1].partition(" ")
    assert sorted(re.findall(r"seed=\d", names)) == ["seed=1", "seed=2"], told
    children = client.search_runs([experiment_id(client)], f"tags.`{PARENT_TAG}` = '{parent}'")
    assert sorted(child.data.tags[TRIAL_TAG] for child in children) == ["seed=1", "seed=2"]
    assert {child.info.status for child in children} == {"FINISHED"}
    first = next(child for child in children if child.data.tags[TRIAL_TAG] == "seed=1")
    assert told.count("trial 1 of 2: seed=1\n  val_loss") == 1, "it was trained again"
    steps = [metric.step for metric in client.get_metric_history(first.info.run_id, "val_loss")]
    assert steps == sorted(set(steps))
