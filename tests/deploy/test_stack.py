"""The compose file's own processes on a real PostgreSQL: chain, restart of each, chain again,
nothing lost."""

import time

import httpx
import pytest

from deploy.compose import Stack, load
from deploy.dagster_api import STATUS, ask, counts, run_chain, told_by_files
from devopsgpt_pipeline.operations.backup import run_postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]


def served(stack):
    key = stack.services["serving"]["environment"]["DEVOPSGPT_SERVING_API_KEYS"]
    headers = {"Authorization": f"Bearer {key}"}
    ready = httpx.get(f"{stack.url('serving')}/api/readyz", headers=headers, timeout=10)
    return ready.json()["version"]


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
    stack.wait("daemon")
    before = counts(postgres)
    assert all(before.values())
    assert (stack.place / "data" / "tmp").is_dir()  # TMPDIR of the steps

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
    assert (
        httpx.post(f"{stack.url('serving')}/api/generate", json=question, headers=key).status_code
        == 200
    )
    assert httpx.post(f"{stack.url('serving')}/api/generate", json=question).status_code == 401
    assert told_by_files(stack.place, variables) == []
    for name in ("dagster", "mlflow"):  # events, metadata, parameters, tags
        dump = run_postgres(["pg_dump"], postgres.url(name))
        assert "champion" in dump
        assert [secret for secret, value in variables.items() if value in dump] == []
    (stack.place / "planted").write_text(f"... {variables['MLFLOW_DB_PASSWORD']} ...")
    assert told_by_files(stack.place, variables) == ["planted tells MLFLOW_DB_PASSWORD"]
