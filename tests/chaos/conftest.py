"""Each file of `make chaos` has a world of its own and one worker; a round mostly waits, so three
fill two cores."""

import pytest

from chaos.world import nothing_lost, ready, served, until


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
