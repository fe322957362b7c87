"""Chains and trainers killed at random points. After each: the chain completes when it is started
again, the champion was servable throughout, no partial file was read, no run or version is lost.
CHAOS_SEED repeats a draw."""

import random
import time

import pytest

from chaos.world import SEED, end, trainer_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]
ROUNDS = 12  # and eight in test_killed_servers.py, five in test_containers.py


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kill_nine_of_a_chain_or_its_trainer(undisturbed, number):
    world, dice = undisturbed, random.Random(SEED + number)
    seed, victim, wait_s = (
        100 + number,
        ("chain", "trainer", "chain")[number % 3],
        dice.uniform(0.3, 12),
    )
    print(f"CHAOS_SEED={SEED}, round {number}: {victim} after {wait_s:.2f} s")
    chain = world.chain(seed)
    try:
        if victim == "chain":
            time.sleep(wait_s)
        else:
            until(lambda: trainer_of(chain) or chain.poll() is not None, 60)
            time.sleep(dice.uniform(0, 2))
            if trainer := trainer_of(chain):
                trainer.kill()
            chain.wait(120)
    finally:
        end(chain)
    world.complete(seed)
