"""Faults at random points. After each: the chain completes when it is started again, the champion was servable
throughout, no partial file was read, no run or version is lost. `make chaos`; CHAOS_SEED repeats a draw."""

import os
import random
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from chaos.clock import Clock
from chaos.world import Watch, World, end, trainer_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(590)]
ROUNDS = 18  # and seven of the compose file's containers in test_containers.py
VICTIMS = ("chain", "trainer", "chain", "mlflow", "service")
SEED = int(os.environ.get("CHAOS_SEED") or time.time())


@contextmanager
def served(place, **options):
    """A world with one completed chain, served and watched."""
    world = World(place, **options)
    try:
        world.start("mlflow")
        world.start("service")
        world.complete(seed=0)
        until(lambda: ready(world), 30)
        world.watch = Watch(world.servers["service"].url, world.chain_home)
        yield world
    finally:
        world.close()


def ready(world):
    import httpx

    return httpx.get(f"{world.servers['service'].url}/api/readyz", timeout=10).status_code == 200


@contextmanager
def nothing_lost(world):
    """No run or version is lost, the service always answered, and no half checkpoint was seen."""
    before = world.counts()
    yield
    after = world.counts()
    assert [name for name in before if after[name] < before[name]] == []
    assert world.watch.troubles == []


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 40 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills(small_disk, tmp_path):
    with served(tmp_path, chain_home=small_disk / "home") as world, nothing_lost(world):
        filler = small_disk / "filler"
        for left in (300_000, 60_000, 0):  # runs out at another place each time
            filler.unlink(missing_ok=True)
            free = shutil.disk_usage(small_disk).free
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, free - left) // 4096 * 4096 or 1)
            chain = world.chain(seed=70)
            try:
                assert chain.wait(120) != 0, "the disk was not full"
            finally:
                end(chain)
        filler.unlink()
        world.complete(seed=70)
