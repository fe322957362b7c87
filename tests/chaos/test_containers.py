"""The compose file's processes and PostgreSQL, each killed with all it started, as a container is,
while a chain runs; and the database gone for a minute from under all of them. The promises are
those of test_killed_chains.py."""

import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import requests
from deploy.compose import SECRETS, Stack, load
from deploy.conftest import Postgres
from deploy.dagster_api import (
    ENDED,
    STATUS,
    ask,
    chain_config,
    counts,
    finish,
    launch,
    logs,
    told_by_files,
)

from chaos.world import SEED, Watch, check_complete, until
from devopsgpt_pipeline.home import Home

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]
VICTIMS = (
    ("webserver", "serving"),
    ("code",),
    ("mlflow",),
    ("daemon", "postgres"),
    ("code", "mlflow"),
)
# the run lives in the code server: nobody else's death touches it
HARMLESS = {"webserver", "daemon", "serving"}
# a person waits half a minute for a lost run to be noticed, and one more for its slot; this suite
# does not
SOONER = {
    "poll_interval_seconds: 30": 2,
    "free_slots_after_run_end_seconds: 60": 1,
    "start_timeout_seconds: 180": 45,
}
# half the time; test_stack.py has a process for each step
IN_PROCESS = {"execution": {"config": {"in_process": {}}}}


@pytest.fixture(scope="module")
def variables():
    return {name: os.urandom(16).hex() for name in SECRETS}


@pytest.fixture(scope="module")
def postgres(variables):
    if not shutil.which("initdb"):
        pytest.skip("no PostgreSQL on the PATH (Debian's package postgresql, its bin folder)")
    with tempfile.TemporaryDirectory(prefix="devopsgpt-postgres-") as folder:
        server = Postgres(Path(folder), variables)
        server.make()
        yield server
        server.stop("immediate")


@pytest.fixture(scope="module")
def stack(postgres, variables, tmp_path_factory):
    """All of it up, one chain completed, served and watched."""
    stack = Stack(load(variables)["services"], postgres.port, tmp_path_factory.mktemp("stack"))
    settings = stack.places["/opt/dagster"] / "dagster.yaml"
    for line, seconds in SOONER.items():
        assert line in settings.read_text()
        settings.write_text(
            settings.read_text().replace(line, f"{line.partition(':')[0]}: {seconds}")
        )
    watch = None
    try:
        stack.up()
        assert finish(stack, launch(stack, "observe_books", IN_PROCESS)) == "SUCCESS", logs(stack)
        complete(stack, seed=0)
        until(lambda: ready(stack), 30)
        key = {"Authorization": f"Bearer {variables['DEVOPSGPT_API_KEY']}"}
        stack.watch = watch = Watch(stack.url("serving"), stack.places["/data"], key)
        yield stack
    finally:
        if watch:
            watch.stop()
        stack.down()


def ready(stack):
    return requests.get(f"{stack.url('serving')}/api/readyz", timeout=10).status_code == 200


@pytest.fixture
def undisturbed(stack, postgres):
    """Nothing lost, the service always answered, no half checkpoint seen."""
    before, asked, read = counts(postgres), stack.watch.asked, stack.watch.read
    yield stack
    after = counts(postgres)
    assert [table for table in before if after[table] < before[table]] == []
    assert stack.watch.troubles == []
    assert stack.watch.asked > asked
    assert stack.watch.read > read


def start_chain(stack, seed):
    return launch(stack, "whole_chain", chain_config(seed) | IN_PROCESS)


def settle(stack, run_id, seconds=120):
    """How a run ended, asked while what answers may be away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if (status := ask(stack, STATUS, id=run_id)["runOrError"]["status"]) in ENDED:
                return status
        except (requests.RequestException, AssertionError, ValueError):
            status = "no answer"
        assert time.monotonic() < deadline, f"{status}\n{logs(stack)}"
        time.sleep(0.5)


def start_as_soon_as_possible(stack, seed):
    """Dagster's page drops a connection that died under it when it meets it: an error for each, and
    then no more."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return start_chain(stack, seed)
        except AssertionError as error:
            assert "OperationalError" in str(error), error
            assert time.monotonic() < deadline, error
            time.sleep(1)


def complete(stack, seed, start=start_chain):
    """The chain ends well when it is started again, and all of it is there."""
    run_id = start(stack, seed)
    assert settle(stack, run_id) == "SUCCESS", logs(stack)
    check_complete(stack.url("mlflow"), Home(stack.places["/data"]), seed, stack.place)


@pytest.mark.parametrize("number", range(len(VICTIMS)))
def test_kill_nine_of_each_container(undisturbed, postgres, number):
    stack, dice = undisturbed, random.Random(SEED + number)
    seed = 100 + number
    run_id = start_chain(stack, seed)
    for victim in VICTIMS[number]:
        wait_s = dice.uniform(0.3, 12)
        print(f"CHAOS_SEED={SEED}, round {number}: {victim} after {wait_s:.2f} s")
        time.sleep(wait_s)
        stack.watch.excused = victim == "serving"
        kill_and_start(stack, postgres, victim)
        stack.watch.excused = False
    status = settle(stack, run_id)
    print(f"round {number}: {status}")
    if set(VICTIMS[number]) <= HARMLESS:
        assert status == "SUCCESS", logs(stack)
        check_complete(stack.url("mlflow"), Home(stack.places["/data"]), seed, stack.place)
    else:
        complete(stack, seed, start_as_soon_as_possible)


def kill_and_start(stack, postgres, victim):
    """As a container dies, and is started again by what watches it."""
    if victim == "postgres":
        postgres.kill()
        postgres.start()
        return
    stack.kill(victim)
    stack.start(victim)
    if victim != "daemon":
        stack.wait(victim)
    if victim == "serving":
        until(lambda: ready(stack), 60)


def test_a_database_that_goes_away_for_a_minute(undisturbed, postgres, variables):
    stack = undisturbed
    run_id = start_chain(stack, 80)
    time.sleep(5)
    postgres.stop("immediate")
    time.sleep(60)
    postgres.start()
    print(f"the run that lost its database: {settle(stack, run_id)}")
    complete(stack, 80, start_as_soon_as_possible)
    # errors about a database like to name its address
    assert told_by_files(stack.place, variables) == []
