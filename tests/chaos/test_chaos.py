"""Faults at random points. After each: the chain completes when it is started again, the champion was servable
throughout, no partial file was read, no run or version is lost. `make chaos`; CHAOS_SEED repeats a draw."""

import os
import random
import subprocess
import time

import pytest

from chaos.clock import Clock
from chaos.world import end, nothing_lost, ready, served, trainer_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]
ROUNDS = 18  # and seven of the compose file's containers in test_containers.py
VICTIMS = ("chain", "trainer", "chain", "mlflow", "service")
SEED = int(os.environ.get("CHAOS_SEED") or time.time())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with served(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def undisturbed(world):
    """The promises, checked around a test."""
    asked, read = world.watch.asked, world.watch.read
    with nothing_lost(world):
        yield world
        until(lambda: ready(world), 60)
    assert world.watch.asked > asked
    assert world.watch.read > read


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kill_nine_anywhere(undisturbed, number):
    world, dice = undisturbed, random.Random(SEED + number)
    seed, victim, wait_s = 100 + number, VICTIMS[number % len(VICTIMS)], dice.uniform(0.3, 7)
    print(f"CHAOS_SEED={SEED}, round {number}: {victim} after {wait_s:.2f} s")
    chain = world.chain(seed)
    try:
        if victim == "trainer":
            until(lambda: trainer_of(chain) or chain.poll() is not None, 60)
            time.sleep(dice.uniform(0, 2))
            if trainer := trainer_of(chain):
                trainer.kill()
            chain.wait(120)
        else:
            time.sleep(wait_s)
            world.watch.excused = victim == "service"
            if victim == "chain":
                end(chain)
            else:
                world.kill(victim)
                world.start(victim)
                until(lambda: ready(world), 60)
            world.watch.excused = False
            chain.wait(120)  # with a server killed beneath it, it may end either way
    finally:
        end(chain)
    world.complete(seed)


def test_two_chains_at_once_give_one_result(undisturbed):
    first, second = undisturbed.chain(seed=50), undisturbed.chain(seed=50)
    try:
        statuses = sorted((first.wait(240), second.wait(240)))
    finally:
        end(first)
        end(second)
    assert statuses[0] == 0, "neither came to its end"
    undisturbed.complete(seed=50)


def test_a_clock_that_jumps(undisturbed, tmp_path):
    clock = Clock(tmp_path)
    moved = subprocess.run(["date", "+%Y"], env=os.environ | clock.environment, capture_output=True, text=True)
    assert int(moved.stdout) == time.gmtime().tm_year
    chain = undisturbed.chain(seed=60, **clock.environment)
    try:
        for hours in (26, -30, 0):
            time.sleep(2.5)
            clock.move(hours * 3600)
        assert chain.wait(120) == 0, (undisturbed.place / "chain.log").read_text()[-3000:]
    finally:
        end(chain)
    undisturbed.complete(seed=60)
