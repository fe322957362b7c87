"""Terminate in Dagster's UI, and a worker that is killed: a real `dagster dev`, asked over GraphQL
as its UI asks."""

import json
import time

import psutil
import pytest
import requests

from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.training.report import read_metrics
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.tracking.client import connect

STEPS = 1500
SETTINGS = {
    **dict(
        n_layer=2,
        n_head=2,
        n_embd=64,
        block_size=32,
        batch_size=8,
        max_steps=STEPS,
        warmup_steps=5,
        seed=11,
    ),
    **dict(
        eval_interval=500,
        log_interval=20,
        device="cpu",
        dtype="float32",
        compile="off",
        dataset="books",
    ),
}
LOCATION = (
    "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
)
LAUNCH = """mutation ($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = """mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"""
STATUS = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""
OBSERVATIONS = """{ assetOrError(assetKey: {path: ["finetuned_checkpoint"]}) { ... on Asset {
  assetObservations(limit: 100) { metadataEntries { label } } } } }"""


class Ui:
    """What a person does in the UI."""

    def __init__(self, url):
        self.url = url
        (repository,) = self.ask(LOCATION)["repositoriesOrError"]["nodes"]
        self.selector = {
            **{
                "repositoryName": repository["name"],
                "repositoryLocationName": repository["location"]["name"],
            },
            **{"jobName": "whole_chain", "assetSelection": [{"path": ["finetuned_checkpoint"]}]},
        }

    def ask(self, query, **variables):
        answer = requests.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60
        ).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def launch(self):
        config = {"ops": {"finetuned_checkpoint": {"config": SETTINGS}}}
        answer = self.ask(
            LAUNCH,
            p={"selector": self.selector, "runConfigData": json.dumps(config), "mode": "default"},
        )
        assert answer["launchRun"]["__typename"] == "LaunchRunSuccess", answer
        return answer["launchRun"]["run"]["runId"]

    def terminate(self, run_id):
        assert self.ask(TERMINATE, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def observed(self):
        """Labels of what the asset's page draws over time."""
        observations = self.ask(OBSERVATIONS)["assetOrError"].get("assetObservations", [])
        return {entry["label"] for each in observations for entry in each["metadataEntries"]}

    def wait_for(self, run_id, status, seconds):
        until(
            lambda: self.ask(STATUS, id=run_id)["runOrError"]["status"] == status, seconds, status
        )


def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def step_of(home):
    """The last step that the training in this home reported."""
    lines = [line for path in home.training.glob("*/metrics.jsonl") for line in read_metrics(path)]
    return max((line["step"] for line in lines), default=0)


def trainer_in(home):
    """The trainer's process, None where there is none."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "devopsgpt_model.train" in words and any(
            word.startswith(str(home.training)) for word in words
        ):
            return process
    return None


@pytest.fixture
def home(tmp_path, mlflow_server, monkeypatch):
    home = Home(tmp_path / "home").prepare()
    text = "a steady service answers; a slow service makes its users wait. " * 60
    documents = {"train": [("t", text)], "val": [("v", "a slow answer makes a service wait. " * 8)]}
    write_token_bins(home.tokens / "books", "books", Tokenizer.plain_bytes(), documents)
    for name in (
        "DEVOPSGPT_HOME",
        "DAGSTER_HOME",
        "MLFLOW_TRACKING_URI",
        "DEVOPSGPT_MLFLOW_UI_URL",
    ):
        monkeypatch.setenv(name, "")  # put back after the test
    for name in ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "false" if "BAR" in name else "passive")
    servers.set_environment(home, mlflow_server.url, mlflow_server.url)
    return home


@pytest.fixture
def ui(home):
    server = servers.dagster_server(home, servers.free_port())
    with servers.running([server]):
        yield Ui(server.url)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_terminated_and_a_killed_training_go_on_in_the_same_mlflow_run(home, ui, mlflow_server):
    client = connect(mlflow_server.url)

    # Terminate, as the UI's button does.
    first = ui.launch()
    until(lambda: step_of(home) >= 40, 90, "the first run trains")
    (out,) = [path.parent for path in home.training.glob("*/run.json")]
    run_id = json.loads((out / "run.json").read_text())["run_id"]
    until(lambda: client.get_metric_history(run_id, "train_loss"), 20, "MLflow shows train_loss")
    until(lambda: "train_loss" in ui.observed(), 20, "Dagster shows train_loss")
    trainer, asked = trainer_in(home), time.monotonic()
    assert trainer.is_running()  # all that was seen while it trained
    ui.terminate(first)
    ui.wait_for(first, "CANCELED", 60)
    assert time.monotonic() - asked < 60
    psutil.wait_procs([trainer], timeout=5)
    assert not trainer.is_running()
    assert (out / "state.safetensors").exists()
    assert not (out / "result.json").exists()
    assert client.get_run(run_id).info.status == "KILLED"
    logs = "".join(path.read_text() for path in (home.dagster / "storage" / first).rglob("*.err"))
    assert "start it again to go on from there" in logs  # the trainer's last words

    # Kill the worker beneath the next one.
    stopped, second = step_of(home), ui.launch()
    until(lambda: step_of(home) > stopped, 90, "the second run goes on")
    trainer = trainer_in(home)
    trainer.parent().kill()
    _, alive = psutil.wait_procs([trainer], timeout=30)
    assert alive == []
    ui.wait_for(second, "FAILURE", 60)

    # And the third comes to the end.
    reached, third = step_of(home), ui.launch()
    ui.wait_for(third, "SUCCESS", 200)
    assert 40 <= stopped < reached < STEPS
    facts = home.finetuned_facts()
    assert (facts["mlflow_run_id"], facts["steps_trained"]) == (run_id, STEPS)
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run_id, "train_loss")]
    assert steps == sorted(set(steps))  # one history, nothing twice
    assert steps[-1] == STEPS
