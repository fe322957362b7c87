"""A real registry: what its alias names, and a version that arrives verified or not at all."""

import json
import os
import subprocess
import sys
import time

import pytest

from devopsgpt_model.tracking import limit_patience
from devopsgpt_serving.errors import DamagedVersion, NoModelYet, RegistryUnavailable
from devopsgpt_serving.versions import registry as registry_module
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.registry import Registry
from serving.conftest import serving, until
from serving.versions.spoiling import cut_short, drop_file, drop_manifest, flip_a_byte


@pytest.fixture
def cache(tmp_path):
    cache = VersionCache(tmp_path / "cache", 10**9)
    cache.prepare()
    return cache


def test_the_alias_names_a_version_and_its_tags(common_shelf):
    found = Registry(common_shelf.url, common_shelf.name, "champion", 2).resolve()
    assert (found.name, found.number) == (common_shelf.name, "1")
    assert found.tags["val_loss"] == "1.5"
    assert found.created > 1_700_000_000


@pytest.mark.parametrize("name", ["no-such-model", None])
def test_no_champion_is_no_model_yet(shelf, name):
    with pytest.raises(NoModelYet, match="no version with alias 'champion'"):
        Registry(shelf.url, name or shelf.name, "champion", 2).resolve()


@pytest.mark.parametrize("address", ["127.0.0.1:5000", "file:///tmp", "http://", "sqlite:///x"])
def test_an_address_that_is_none_is_told_as_what_it_is(address):
    """Not as a registry without a champion: nothing was asked."""
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        Registry(address, "devopsgpt", "champion", 2)


def test_a_version_arrives_verified_and_is_not_fetched_again(common_shelf, cache, proxy):
    registry = Registry(proxy.url, common_shelf.name, "champion", 2)
    version = registry.resolve()
    folder = registry.fetch(version, cache)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "model",
        "version.json",
    ]
    assert json.loads((folder / "version.json").read_text())["tags"] == version.tags
    asked = len(proxy.requests)
    assert registry.fetch(version, cache) == folder
    assert len(proxy.requests) == asked


@pytest.mark.parametrize("spoil", [flip_a_byte, cut_short, drop_file, drop_manifest])
def test_a_version_that_is_not_what_it_says_is_refused(shelf, cache, spoil):
    shelf.publish(spoil=spoil)
    registry = Registry(shelf.url, shelf.name, "champion", 2)
    with pytest.raises((DamagedVersion, RegistryUnavailable)):
        registry.fetch(registry.resolve(), cache)
    assert list(cache.folder.iterdir()) == []


def test_a_disk_without_room_is_noticed_before_the_download(common_shelf, cache, monkeypatch):
    monkeypatch.setattr(registry_module, "DISK_RESERVE_BYTES", 10**18)
    registry = Registry(common_shelf.url, common_shelf.name, "champion", 2)
    with pytest.raises(OSError, match="the download needs"):
        registry.fetch(registry.resolve(), cache)


@pytest.mark.parametrize("mode", ["500", "hang", "truncate"])
def test_a_registry_in_trouble_is_unavailable(common_shelf, cache, proxy, mode):
    registry = Registry(proxy.url, common_shelf.name, "champion", 2)
    version = registry.resolve()
    proxy.mode = mode
    with pytest.raises((RegistryUnavailable, DamagedVersion)):
        registry.fetch(version, cache)
    assert list(cache.folder.iterdir()) == []


PATIENCE = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")


@pytest.fixture
def as_deployed(monkeypatch):
    """An environment without the patience that these tests give to MLflow's client."""
    for name in PATIENCE:
        # for monkeypatch to put back what there was, also where there was nothing
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def patience():
    return tuple(os.environ.get(name) for name in PATIENCE)


def test_patience_is_what_the_settings_say(as_deployed, tmp_path):
    with serving(tmp_path, tracking_uri="http://127.0.0.1:9", registry_timeout_s=3) as service:
        until(lambda: service.ready()["registry_up"] is False)
        assert patience() == ("3", "1")


def test_patience_of_the_operator_stays(as_deployed, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    limit_patience(3)
    assert patience() == ("300", "7")


def test_a_registry_that_hangs_is_given_up_within_seconds(as_deployed, common_shelf, proxy):
    proxy.mode = "hang"
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable):
        Registry(proxy.url, common_shelf.name, "champion", 1).resolve()
    # two tries of 1 s and the wait between; MLflow's own patience is minutes
    assert time.monotonic() - began < 10


SKINNY = """
import sys
from importlib.machinery import PathFinder

class Without:
    finders = list(sys.meta_path)
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {absent!r}:
            specs = (finder.find_spec(name, path, target) for finder in self.finders)
            return next(filter(None, specs), None)

sys.meta_path[:] = [Without()]
from pathlib import Path
from devopsgpt_serving.app import create_app
from devopsgpt_serving.versions.registry import Registry
from devopsgpt_serving.versions.cache import VersionCache
assert "mlflow" not in sys.modules, "importing the service imports mlflow"
cache = VersionCache(Path({folder!r}), 10**9)
cache.prepare()
registry = Registry({url!r}, {name!r}, "champion", 5)
print(registry.fetch(registry.resolve(), cache).name)
print(sorted({forbidden!r} & {{name.split(".")[0] for name in sys.modules}}))
"""
NOT_IN_SKINNY = (
    *(
        "pandas",
        "flask",
        "sqlalchemy",
        "alembic",
        "docker",
        "graphene",
        "sklearn",
        "scipy",
        "matplotlib",
        "pyarrow",
    ),
    *("dagster", "transformers", "devopsgpt_pipeline"),
)


def test_mlflow_skinny_is_enough(common_shelf, tmp_path):
    forbidden = {*NOT_IN_SKINNY}
    code = SKINNY.format(
        absent=NOT_IN_SKINNY,
        forbidden=forbidden,
        folder=str(tmp_path / "cache"),
        url=common_shelf.url,
        name=common_shelf.name,
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    key, loaded = answer.stdout.split("\n")[:2]
    assert key.startswith("1-")
    assert loaded == "[]"
