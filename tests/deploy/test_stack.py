"""The compose file's own processes on a real PostgreSQL: chain, restart of each, chain again, nothing lost."""

import time

import httpx
import pytest

from deploy.compose import Stack, load
from devopsgpt_pipeline.backup import run_postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]

LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
TINY = dict(n_layer=1, n_head=2, n_embd=32, block_size=64, batch_size=4, max_steps=20, warmup_steps=2)
TINY |= dict(eval_interval=10, log_interval=5, learning_rate=1e-2, device="cpu", dtype="float32", dropout=0.0)


def ask(stack, query, **variables):
    answer = httpx.post(f"{stack.url('webserver')}/graphql", json={"query": query, "variables": variables}, timeout=60)
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]


def launch(stack, job, config=None):
    selector = {"repositoryLocationName": "devopsgpt", "repositoryName": "__repository__", "jobName": job}
    result = ask(stack, LAUNCH, p={"selector": selector, "runConfigData": config or {}})["launchRun"]
    assert result["__typename"] == "LaunchRunSuccess", result
    return result["run"]["runId"]


def finish(stack, run_id, seconds=200):
    deadline = time.monotonic() + seconds
    while (status := ask(stack, STATUS, id=run_id)["runOrError"]["status"]) not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    return status


def run_chain(stack, seed):
    config = {"ops": {"finetuned_checkpoint": {"config": TINY | {"seed": seed}}}}
    for job, settings in (("observe_books", None), ("whole_chain", config)):
        run_id = launch(stack, job, settings)
        assert finish(stack, run_id) == "SUCCESS", logs(stack)
    return run_id


def logs(stack):
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in stack.place.glob("*.log"))


def counts(postgres):
    """How many rows each table has that must lose none."""
    tables = [("dagster", "runs"), ("dagster", "event_logs"), ("mlflow", "runs"), ("mlflow", "model_versions")]
    return {
        (database, table): int(
            run_postgres(["psql", "-At", "-c", f"select count(*) from {table}"], postgres.url(database))
        )
        for database, table in tables
    }


def served(stack):
    return httpx.get(f"{stack.url('serving')}/api/readyz", timeout=10).json()["version"]


def wait_for_version(stack, version):
    deadline = time.monotonic() + 60
    while served(stack) != version:
        assert time.monotonic() < deadline, served(stack)
        time.sleep(0.5)


@pytest.fixture
def stack(postgres, variables, tmp_path):
    services = load(variables)["services"]
    place = tmp_path / "stack"
    place.mkdir()
    stack = Stack(services, postgres.port, place)
    stack.services["daemon"] = services["daemon"]
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def test_the_chain_survives_a_restart_of_every_process(stack, postgres, variables):
    first = run_chain(stack, seed=1)
    wait_for_version(stack, "1")
    before = counts(postgres)
    assert all(before.values())

    postgres.stop()
    postgres.start()
    for name in stack.services:
        stack.restart(name)

    after = counts(postgres)
    assert [table for table in before if after[table] < before[table]] == []
    wait_for_version(stack, "1")
    assert ask(stack, STATUS, id=first)["runOrError"]["status"] == "SUCCESS"
    run_chain(stack, seed=2)
    assert counts(postgres)["mlflow", "model_versions"] == 2
    key = {"Authorization": f"Bearer {variables['DEVOPSGPT_API_KEY']}"}
    question = {"prompt": "The backup", "max_token_len": 5}
    assert httpx.post(f"{stack.url('serving')}/api/generate", json=question, headers=key).status_code == 200
    assert httpx.post(f"{stack.url('serving')}/api/generate", json=question).status_code == 401
    for path in stack.place.glob("*.log"):
        text = path.read_text(errors="replace")
        assert not any(value in text for value in variables.values()), f"{path.name} tells a secret"
