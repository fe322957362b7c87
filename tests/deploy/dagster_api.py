"""Dagster's GraphQL API, as a person's browser asks it, and what the databases behind it hold."""

import time

import requests

from devopsgpt_pipeline.operations.backup import run_postgres

ENDED = ("SUCCESS", "FAILURE", "CANCELED")
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
TINY = dict(
    n_layer=1, n_head=2, n_embd=32, block_size=64, batch_size=4, max_steps=20, warmup_steps=2
)
TINY |= dict(
    eval_interval=10, log_interval=5, learning_rate=1e-2, device="cpu", dtype="float32", dropout=0.0
)


def ask(stack, query, **variables):
    answer = requests.post(
        f"{stack.url('webserver')}/graphql",
        json={"query": query, "variables": variables},
        timeout=60,
    )
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]


def launch(stack, job, config=None):
    selector = {
        "repositoryLocationName": "devopsgpt",
        "repositoryName": "__repository__",
        "jobName": job,
    }
    result = ask(stack, LAUNCH, p={"selector": selector, "runConfigData": config or {}})[
        "launchRun"
    ]
    assert result["__typename"] == "LaunchRunSuccess", result
    return result["run"]["runId"]


def finish(stack, run_id, seconds=200):
    deadline = time.monotonic() + seconds
    while (status := ask(stack, STATUS, id=run_id)["runOrError"]["status"]) not in ENDED:
        assert time.monotonic() < deadline, status
        time.sleep(1)
    return status


def chain_config(seed):
    """A new seed makes everything from training on anew."""
    return {"ops": {"finetuned_checkpoint": {"config": TINY | {"seed": seed}}}}


def run_chain(stack, seed):
    config = chain_config(seed)
    for job, settings in (("observe_books", None), ("whole_chain", config)):
        run_id = launch(stack, job, settings)
        assert finish(stack, run_id) == "SUCCESS", logs(stack)
    return run_id


def logs(stack):
    return "\n".join(path.read_text(errors="replace")[-3000:] for path in stack.place.glob("*.log"))


def counts(postgres):
    """How many rows each table has that must lose none."""
    tables = [
        ("dagster", "runs"),
        ("dagster", "event_logs"),
        ("mlflow", "runs"),
        ("mlflow", "model_versions"),
    ]
    return {
        (database, table): int(
            run_postgres(
                ["psql", "-At", "-c", f"select count(*) from {table}"], postgres.url(database)
            )
        )
        for database, table in tables
    }


def told_by_files(place, variables):
    """Secrets that stand in files below a place: logs, home, artifacts, caches."""
    return [
        f"{path.relative_to(place)} tells {name}"
        for path in place.rglob("*")
        if path.is_file() and (content := path.read_bytes())
        for name, value in variables.items()
        if value.encode() in content
    ]
