"""Following the alias of a real registry, through trouble of every kind."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from devopsgpt_serving.app import build_service
from devopsgpt_serving.settings import Settings
from devopsgpt_serving.versions import registry as registry_module
from devopsgpt_serving.versions.cache import VersionCache
from serving.conftest import serving, until
from serving.versions.spoiling import cut_short, drop_tensor, flip_a_byte, no_numbers


def test_a_champion_is_taken_up_as_soon_as_it_appears(shelf, tmp_path):
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        until(lambda: service.ready()["registry_up"])
        assert service.http.get("/api/readyz").status_code == 503
        assert "no version with alias 'champion'" in service.ready()["problem"]
        assert service.http.get("/api/healthz").json() == {"api_healthy": True}
        assert service.http.get("/v1/models").json()["data"] == []
        answer = service.generate("x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_model")
        assert answer.headers["x-model-version"] == "none"
        assert "retry-after" in answer.headers
        shelf.publish(seed=1)
        service.wait_for("1")
        assert service.generate("x").json()["version"] == "1"


def test_a_new_champion_is_swapped_in_and_back_without_a_download(shelf, tmp_path, proxy):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=proxy.url, model_name=shelf.name) as service:
        service.wait_for("1")
        first = service.generate("hello", seed=1).json()
        shelf.publish(seed=2)
        service.wait_for("2")
        second = service.generate("hello", seed=1).json()
        assert second["version"] == "2"
        assert second["completions"] != first["completions"]
        proxy.requests.clear()
        shelf.promote("1")
        service.wait_for("1")
        assert service.generate("hello", seed=1).json() == first
        assert not any("safetensors" in path for path in proxy.requests)
        assert service.metric("reloads_total") == 3


@pytest.fixture
def held(shelf, tmp_path, proxy, monkeypatch):
    """A service of version 1 that is in the middle of fetching version 2."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # longer than the download stands still
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=proxy.url, model_name=shelf.name) as service:
        service.wait_for("1")
        proxy.requests.clear()
        proxy.mode = "hold"
        shelf.publish(seed=2)
        until(lambda: any("safetensors" in path for path in proxy.requests))
        yield service
        proxy.mode = "pass"


def test_a_version_that_is_being_fetched_shows(held, proxy):
    assert (held.ready()["ready"], held.ready()["version"]) == (True, "1")
    assert held.ready()["problem"] == "version 2 is being fetched"
    assert held.metric("fetching") == 1
    assert held.metric("up_to_date") == 0
    proxy.mode = "pass"
    held.wait_for("2")
    assert held.ready()["problem"] is None
    assert held.metric("fetching") == 0


def test_a_rollback_during_a_download_holds(held, shelf, proxy, tmp_path):
    shelf.promote("1")
    proxy.mode = "pass"
    until(lambda: held.ready()["problem"] is None, say=held.ready)
    assert len(list((tmp_path / "cache").glob("2-*"))) == 1
    state = held.service.follower.state
    assert (state.served.number, state.reloads, state.failed_reloads) == ("1", 1, 0)
    shelf.promote("2")
    held.wait_for("2")


def test_a_promotion_during_a_download_goes_first(held, shelf, proxy):
    shelf.publish(seed=3)
    proxy.mode = "pass"
    held.wait_for("3")
    assert held.service.follower.state.reloads == 2


def test_an_alias_that_is_removed_during_a_download_leaves_the_model_in_place(held, shelf, proxy):
    shelf.client.delete_registered_model_alias(shelf.name, "champion")
    proxy.mode = "pass"
    until(lambda: "no version with alias" in (held.ready()["problem"] or ""), say=held.ready)
    assert held.service.follower.state.reloads == 1


def test_a_registry_that_falls_silent_after_a_download_was_right_before(
    shelf, tmp_path, proxy, monkeypatch
):
    with serving(tmp_path, tracking_uri=proxy.url, model_name=shelf.name) as service:
        registry = service.service.follower.registry
        fetch = registry.fetch

        def fetch_and_break(*wanted):
            folder = fetch(*wanted)
            proxy.mode = "500"
            return folder

        monkeypatch.setattr(registry, "fetch", fetch_and_break)
        shelf.publish(seed=1)
        service.wait_for("1")


def test_a_removed_alias_leaves_the_model_in_place(shelf, tmp_path):
    shelf.publish()
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        shelf.client.delete_registered_model_alias(shelf.name, "champion")
        until(lambda: service.ready()["problem"])
        assert service.ready()["ready"]
        assert service.generate("x").status_code == 200


def refused_then_repaired(service, shelf, problem):
    until(lambda: problem in (service.ready()["problem"] or ""), say=service.ready)
    assert service.ready()["version"] == "1"
    assert service.generate("x").json()["version"] == "1"
    shelf.publish(seed=3)
    service.wait_for("3")
    assert service.ready()["problem"] is None


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (flip_a_byte, "should have sha256"),
        (cut_short, "bytes and has"),
        (drop_tensor, "asks for tensor ln_f.weight"),
        (no_numbers, "tensor ln_f.weight has numbers that are NaN"),
    ],
)
def test_a_bad_version_never_replaces_a_good_one(shelf, tmp_path, spoil, problem):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        shelf.publish(seed=2, spoil=spoil)
        refused_then_repaired(service, shelf, problem)
        failed = service.service.follower.state.failed_reloads  # one for each look at the registry
        assert failed
        assert service.metric("failed_reloads_total") == failed


def test_a_truncated_download_never_replaces_a_good_one(shelf, tmp_path, proxy):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=proxy.url, model_name=shelf.name) as service:
        service.wait_for("1")
        proxy.mode = "truncate"
        shelf.publish(seed=2)
        until(
            lambda: "version 2 cannot be served" in (service.ready()["problem"] or ""),
            say=service.ready,
        )
        assert service.generate("x").json()["version"] == "1"
        assert service.metric("up_to_date") == 0
        proxy.mode = "pass"
        service.wait_for("2")


def test_a_disk_without_room_leaves_the_good_one(shelf, tmp_path, monkeypatch):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        monkeypatch.setattr(registry_module, "DISK_RESERVE_BYTES", 10**18)
        shelf.publish(seed=2)
        until(lambda: "the download needs" in (service.ready()["problem"] or ""), say=service.ready)
        assert service.generate("x").json()["version"] == "1"


def test_old_versions_make_room_for_a_new_one(shelf, tmp_path, monkeypatch):
    def files(pattern):
        return [path for path in (tmp_path / "cache").glob(pattern) if path.is_file()]

    def bytes_of(pattern):
        return sum(path.stat().st_size for path in files(pattern))

    def disk_of(versions):
        size = registry_module.DISK_RESERVE_BYTES + int(versions * one)
        monkeypatch.setattr(VersionCache, "free_bytes", lambda _: size - bytes_of("*/**/*"))

    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        one = bytes_of("1-*/**/*")
        disk_of(2.5)
        for seed in (2, 3):
            assert files("1-*/model/*"), "no need to drop it yet"
            shelf.publish(seed=seed)
            service.wait_for(str(seed))
        assert files("2-*/model/*")
        assert not files("1-*/model/*")
        disk_of(1.5)
        shelf.publish(seed=4)
        until(lambda: "the download needs" in (service.ready()["problem"] or ""), say=service.ready)
        assert service.generate("x").json()["version"] == "3"
        assert files("2-*/model/*"), "dropping it would not have been enough"
        assert files("3-*/model/*"), "it is served"
        disk_of(2.5)
        service.wait_for("4")
        assert not files("2-*/model/*")


def test_old_versions_go_where_the_cache_is_full(shelf, tmp_path):
    def kept():
        return sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").glob("[0-9]*-*"))

    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    shelf.publish(seed=1)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        one = sum(
            path.stat().st_size for path in (tmp_path / "cache").glob("1-*/**/*") if path.is_file()
        )
    with serving(tmp_path, **where, max_cache_bytes=int(2.5 * one)) as service:
        for seed in (2, 3):
            assert "1" in kept(), "no need to drop it yet"
            shelf.publish(seed=seed)
            service.wait_for(str(seed))
        until(lambda: kept() == ["2", "3"], say=kept)
        shelf.publish(seed=4)
        service.wait_for("4")
        until(lambda: kept() == ["3", "4"], say=kept)


class Waits(threading.Event):
    """An event that nobody waits for; it notes how long they would have."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def wait(self, timeout=None):
        self.noted.append(timeout)
        return super().wait(0.01)


def test_replicas_look_every_15_seconds_and_not_in_step(tmp_path):
    follower = build_service(
        Settings(cache_dir=tmp_path, tracking_uri="http://127.0.0.1:9")
    ).follower
    follower._poke = waits = Waits()
    follower.start()
    until(lambda: len(waits.noted) >= 20)
    follower.stop()
    assert (follower.poll_interval_s, follower.poll_jitter) == (15, 0.2)
    assert all(15 * 0.8 <= wait <= 15 * 1.2 for wait in waits.noted)
    assert max(waits.noted) - min(waits.noted) > 1


def test_the_old_model_is_freed_once_its_last_answer_is_out_without_a_collection(shelf, tmp_path):
    gc.unfreeze()
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        # later collections leave out what is imported
        until(lambda: gc.get_freeze_count() > 100_000)
        old = weakref.ref(service.service.engine.current.runner)
        service.generate("x")
        shelf.publish(seed=2)
        with no_collections() as asked_for:
            # and nothing is asked of it: an idle service holds one model, too
            service.wait_for("2")
            until(lambda: old() is None)
        assert asked_for == []  # each would hold up every answer, the longer the more is imported


@contextmanager
def no_collections():
    """Garbage is not looked for, and who asks for it all the same is noted."""
    asked_for = []
    gc.callbacks.append(lambda phase, info: asked_for.append((phase, info)))
    gc.disable()
    try:
        yield asked_for
    finally:
        gc.enable()
        gc.callbacks.pop()


def test_reload_looks_at_once(shelf, tmp_path):
    shelf.publish(seed=1)
    with serving(
        tmp_path, tracking_uri=shelf.url, model_name=shelf.name, poll_interval_s=60
    ) as service:
        service.wait_for("1")
        shelf.publish(seed=2)
        assert service.http.post("/admin/reload").json()["version"] == "2"


def test_reloads_during_a_download_share_a_look_and_hold_up_no_answer(
    shelf, tmp_path, proxy, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # longer than the registry stands still
    shelf.publish(seed=1)
    with (
        serving(
            tmp_path, tracking_uri=proxy.url, model_name=shelf.name, poll_interval_s=600
        ) as service,
        ThreadPoolExecutor(41) as people,
        httpx.Client(
            base_url=service.url, timeout=60, limits=httpx.Limits(max_connections=None)
        ) as http,
    ):
        service.wait_for("1")
        proxy.mode = "stall"
        shelf.publish(seed=2)
        proxy.requests.clear()
        first = people.submit(http.post, "/admin/reload")
        until(lambda: any("safetensors" in path for path in proxy.requests))
        # more than the 32 threads at most that asyncio lends to what blocks
        others = [people.submit(http.post, "/admin/reload") for _ in range(40)]
        until(lambda: service.service.follower._asked.qsize() == 40)
        assert service.generate("x").json()["version"] == "1"
        assert service.complete("x").status_code == 200
        # the download under way ends early, and with it the look that the first one asked for
        proxy.mode = "pass"
        assert "version 2 cannot be served" in first.result().json()["problem"]
        assert {other.result().json()["version"] for other in others} == {"2"}
        # two looks, and one more before the second one's version is served
        assert sum("alias" in path for path in proxy.requests) == 3, proxy.requests
