"""A finished home for the attacks on it, and the book's site of the scraper's own tests."""

import pytest
from pipeline.conftest import archive, book, book_site  # noqa: F401

from attack.pipeline import homes


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """returns: a home whose chain is complete, not to be touched, and what its champion is"""
    home = tmp_path_factory.mktemp("finished") / "home"
    ended = homes.run(home)
    assert ended.status == 0, ended.output
    return home, ended.champion


@pytest.fixture
def home(finished, tmp_path):
    """A copy of the finished home."""
    return homes.copied(finished[0], tmp_path / "home")
