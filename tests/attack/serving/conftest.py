"""A service for attacks: without a model, for what happens before one is asked."""

import pytest
from serving.conftest import _little_patience, common_shelf, proxy, service, serving, shelf

__all__ = ["_little_patience", "common_shelf", "proxy", "service", "shelf"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A service whose registry is away: connections, headers and bodies do not need one."""
    place = tmp_path_factory.mktemp("bare")
    with serving(place, tracking_uri="http://127.0.0.1:9", poll_interval_s=60) as running:
        yield running
