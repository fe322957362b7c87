"""MLflow and the service killed at random points of a chain. The promises are those of
test_killed_chains.py."""

import random
import time

import pytest

from chaos.world import SEED, end, ready, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]
ROUNDS = 8


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kill_nine_of_a_server(undisturbed, number):
    world, dice = undisturbed, random.Random(SEED + number)
    seed, victim, wait_s = 100 + number, ("mlflow", "service")[number % 2], dice.uniform(0.3, 12)
    print(f"CHAOS_SEED={SEED}, round {number}: {victim} after {wait_s:.2f} s")
    chain = world.chain(seed)
    try:
        time.sleep(wait_s)
        world.watch.excused = victim == "service"
        world.kill(victim)
        world.start(victim)
        until(lambda: ready(world), 60)
        world.watch.excused = False
        chain.wait(120)  # with a server killed beneath it, it may end either way
    finally:
        end(chain)
    world.complete(seed)
