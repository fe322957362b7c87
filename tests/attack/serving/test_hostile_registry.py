"""A registry that lies, hangs, drips, redirects, and never ends."""

import json
from contextlib import closing
from urllib.parse import quote

import httpx
import pytest
from serving.conftest import serving, until

from attack.serving import hostile_registry as hostile
from attack.serving.hostile_registry import HostileRegistry, saying
from attack.serving.raw import memory
from devopsgpt_serving.errors import DamagedVersion, RegistryUnavailable
from devopsgpt_serving.versions import mlflow_server
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.registry import Registry
from devopsgpt_serving.versions.verification import MAX_MANIFEST_BYTES, MAX_TEXT_BYTES


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """Silence of a second is enough; an answer that drips gets four."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


@pytest.fixture
def registry():
    with closing(HostileRegistry()) as registry:
        yield registry


@pytest.fixture
def cache(tmp_path):
    cache = VersionCache(tmp_path / "place" / "cache", 10**9)
    cache.prepare()
    return cache


def following(registry, **settings):
    return Registry(registry.url, "devopsgpt", "champion", 1, **settings)


def manifest(**sizes):
    files = {name: {"sha256": "0" * 64, "size": size} for name, size in sizes.items()}
    return json.dumps({"files": {f"model/{name}": facts for name, facts in files.items()}}).encode()


NUMBERS = ["１２", "٣", "../../x", "1/../2", "1\r\nX: y", "-1", "+1", " 1", "1e3", "", "9" * 19]


@pytest.mark.parametrize("number", [*NUMBERS, None, [], {}, 1.5, True])
def test_a_number_that_is_none_is_no_version(registry, tried, number):
    registry.version["version"] = number
    with pytest.raises(RegistryUnavailable, match="its version is none"):
        following(registry).resolve()
    tried(f"version number {number!r}", "refused")


@pytest.mark.parametrize(
    "change",
    [
        {"source": None, "version": 1, "creation_timestamp": "x"},
        {"creation_timestamp": 10**30},
        {"creation_timestamp": -(10**15)},
        {"tags": {"a": 1}},
        {"tags": [["a"]]},
        {"tags": 7},
    ],
)
def test_a_version_of_wrong_types_is_no_version(registry, tried, change):
    registry.version |= change
    with pytest.raises(RegistryUnavailable, match="its version is none"):
        following(registry).resolve()
    tried(f"a version with {change}", "refused")


ANSWERS = {
    "no JSON": saying(b"<html>"),
    "half a surrogate pair in no string": saying(b"\xed\xa0\x80"),
    "a list": saying(b"[]"),
    "an empty answer": saying(b""),
    "an object without a version": saying(b"{}"),
    "a version that is a text": saying(b'{"model_version": "1"}'),
    "nesting without end": saying(b"[" * 900_000),
    "a number of a million digits": saying(b'{"model_version": ' + b"9" * 900_000 + b"}"),
    "two megabytes": saying(b" " * 2_000_000),
    "a length that is none": saying(b"{}", Content_Length="9" * 30),
    "an endless body": hostile.endless_body,
    "endless headers": hostile.endless_headers,
    "a body that drips": hostile.drip_body,
    "headers that drip": hostile.drip_headers,
    "silence": hostile.hang,
    "a body that is cut off": hostile.cut_off,
    "no HTTP": hostile.no_http,
    "a compressed bomb": hostile.bomb,
    "500": saying(b"", 500),
    "401": saying(b"who?", 401),
    "a redirect that is none": saying(b"", 302, Location="http://["),
    "a redirect to a file": saying(b"", 302, Location="file:///etc/passwd"),
    "a redirect to itself": saying(b"", 302, Location="/api/2.0/mlflow/registered-models/alias"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_of_any_kind_ends(registry, tried, what):
    registry.manners["alias"] = ANSWERS[what]
    before = memory()
    with pytest.raises(RegistryUnavailable, match="did not answer as it should") as told:
        following(registry).resolve()
    assert memory() - before < 100e6
    assert len(str(told.value)) < 600
    tried(f"the registry answers with {what}", str(told.value).partition(": ")[2][:60])


def test_a_redirect_leads_to_the_same_server_only(registry, tried, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret-of-ours")
    with closing(HostileRegistry()) as other:
        registry.manners["alias"] = saying(b"", 307, Location=f"{other.url}/x")
        with pytest.raises(RegistryUnavailable, match="redirects to another server"):
            following(registry).resolve()
        assert other.asked == []
    registry.manners["alias"] = saying(b"", 307, Location="/elsewhere")
    registry.manners["/elsewhere"] = lambda handler: hostile.send_json(
        handler, {"model_version": registry.version}
    )
    assert following(registry).resolve().number == "1"
    assert [headers["Authorization"] for headers in registry.headers] == [
        "Bearer secret-of-ours"
    ] * 3
    tried("a redirect to another server", "refused, and the token not sent there")


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc",
        "/etc",
        "",
        "http://127.0.0.1:1/x",
        "mlflow-artifacts://127.0.0.1:1/x",
        "mlflow-artifacts://evil/x",
        "mlflow-artifacts:/1/../../x",
        "mlflow-artifacts:/1/%2e%2e/x",
        "mlflow-artifacts:/1/..\\x",
        "mlflow-artifacts:/1/x?path=/etc",
        "mlflow-artifacts:/1/x\r\nHost: evil",
        "s3://bucket-of-another/x",
        "s3://bucket/models-of-another/x",
        "s3://bucket/models/../x",
        "ftp://evil/x",
        "runs:/1/x",
    ],
)
def test_files_lie_where_they_may(registry, cache, tried, address):
    registry.artifact_uri = address
    following_it = following(registry, artifact_prefixes=["s3://bucket/models/"])
    with pytest.raises(ValueError, match="which is neither"):
        following_it.fetch(following_it.resolve(), cache)
    assert not any("mlflow-artifacts" in path for path in registry.asked)
    tried(f"files at {address!r}", "refused, nothing asked for")


LONG = "model.safetensors"
FILES = {
    "a manifest longer than it may be": {"manifest.json": b" " * (MAX_MANIFEST_BYTES + 1)},
    "a manifest that is nested without end": {"manifest.json": b"[" * 900_000},
    "a manifest of 101 files": {"manifest.json": manifest(**{f"f{n}": 1 for n in range(101)})},
    "a text of a gigabyte": {"manifest.json": manifest(**{"config.json": MAX_TEXT_BYTES + 1})},
    "a size that is no integer": {"manifest.json": manifest(**{LONG: 1.0})},
    "a size below zero": {"manifest.json": manifest(**{LONG: -1})},
    "a name with a line break": {"manifest.json": manifest(**{"a\nb": 1})},
    "a file longer than its manifest says": {
        "manifest.json": manifest(**{LONG: 10}),
        f"model/{LONG}": b"x" * 11,
    },
    "a file shorter than its manifest says": {
        "manifest.json": manifest(**{LONG: 10}),
        f"model/{LONG}": b"x" * 9,
    },
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_has_the_size_that_it_may_have(registry, cache, tried, what):
    registry.files = FILES[what]
    follower = following(registry)
    with pytest.raises(DamagedVersion) as told:
        follower.fetch(follower.resolve(), cache)
    assert list(cache.folder.iterdir()) == []
    tried(what, str(told.value)[:80])


@pytest.mark.parametrize("name", ["manifest.json", LONG])
@pytest.mark.parametrize(
    "manner", [hostile.endless_body, hostile.drip_body, hostile.hang, hostile.drip_headers]
)
def test_a_file_without_end_is_cut_off(registry, cache, tried, manner, name):
    registry.files = {"manifest.json": manifest(**{LONG: 200_000})}
    registry.manners[name] = manner
    follower = following(registry, fetch_timeout_s=1)
    with pytest.raises((DamagedVersion, RegistryUnavailable)) as told:
        follower.fetch(follower.resolve(), cache)
    assert list(cache.folder.iterdir()) == []
    tried(f"{name}: {manner.__name__}", str(told.value)[-90:])


def test_a_disk_is_not_filled_by_a_size_that_is_claimed(registry, cache, tried):
    registry.files = {"manifest.json": manifest(**{LONG: 10**30})}
    follower = following(registry)
    with pytest.raises(OSError, match="the download needs"):
        follower.fetch(follower.resolve(), cache)
    assert not any(LONG in path for path in registry.asked)
    tried("a file of 10^30 bytes", "refused, not asked for")


def test_names_are_quoted(registry, cache):
    name = "a?b#c%2e d.json"
    registry.files = {"manifest.json": manifest(**{name: 1}), f"model/{quote(name)}": b"x"}
    follower = following(registry)
    with pytest.raises(DamagedVersion, match="should have sha256"):
        follower.fetch(follower.resolve(), cache)
    assert registry.asked[-1] == f"{hostile.ARTIFACTS}1/files/model/{quote(name)}"


EVIL = "a\r\nSet-Cookie: x\x00\x1b[31m \ud800 \u202e evil"


@pytest.fixture
def patient(monkeypatch):
    """MLflow's own client takes whole seconds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


@pytest.fixture
def good_files(patient, shelf, tmp_path, monkeypatch):
    """Files of a version that loads."""
    shelf.publish(seed=1)
    cache = VersionCache(tmp_path / "source", 10**9)
    cache.prepare()
    following = Registry(shelf.url, shelf.name, "champion", 5)
    folder = following.fetch(following.resolve(), cache)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    names = ["manifest.json", *(f"model/{path.name}" for path in (folder / "model").iterdir())]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_registry_may_say_what_it_likes_to_a_service(registry, good_files, tmp_path, tried):
    registry.files = good_files
    registry.version["tags"] = [{"key": EVIL, "value": EVIL}]
    with serving(tmp_path, tracking_uri=registry.url) as service:
        service.wait_for("1")
        for path in ("/v1/models", "/v1/models/devopsgpt", "/api/readyz", "/metrics"):
            answer = service.http.get(path)
            assert answer.status_code == 200
            assert not any(each in answer.text for each in ("\r", "\x1b", "\u202e"))
        registry.version["version"] = "１２"
        until(lambda: service.ready()["registry_up"] is False)
        registry.manners["alias"] = saying(
            json.dumps({"error_code": EVIL, "message": EVIL}).encode(), 400
        )
        until(lambda: "evil" in service.ready()["problem"])
        assert service.generate("x").json()["version"] == "1"
        registry.manners.clear()
        registry.version |= {"version": "2", "source": f"models:/{EVIL}"}
        service.wait_for("2")
        assert service.generate("x").headers["x-model-version"] == "2"
        registry.version |= {"version": "3", "source": "y"}
        registry.artifact_uri = f"file:///{EVIL}"
        until(lambda: "which is neither" in (service.ready()["problem"] or ""))
        assert service.generate("x").json()["version"] == "2"
    tried("control characters and half a surrogate pair in everything", "every answer is whole")


def test_an_alias_that_changes_at_each_look_is_served_as_found(
    registry, good_files, tmp_path, tried
):
    registry.files = good_files

    def restless(handler):
        looks = sum("alias" in path for path in registry.asked)
        found = registry.version | {"version": str(looks), "source": f"x{looks}"}
        hostile.send_json(handler, {"model_version": found})

    registry.manners["alias"] = restless
    with serving(tmp_path, tracking_uri=registry.url, poll_interval_s=60) as service:
        until(lambda: service.ready()["ready"])
        first = int(service.ready()["version"])
        assert service.http.post("/admin/reload").json()["ready"]
        second = int(service.ready()["version"])
        assert first < second <= first + 6
        tried("an alias that changes at each look", f"version {first}, then {second} served")


def test_a_reload_ends_while_the_registry_drips(registry, good_files, tmp_path, tried):
    registry.files = good_files
    with serving(
        tmp_path, tracking_uri=registry.url, poll_interval_s=60, fetch_timeout_s=1
    ) as service:
        service.wait_for("1")
        registry.version |= {"version": "2", "source": "y"}
        registry.manners["safetensors"] = hostile.drip_body
        answer = httpx.post(f"{service.url}/admin/reload", timeout=100).json()
        assert "took longer than 1 s" in answer["problem"]
        assert answer["version"] == "1"
    tried("a reload while files drip", answer["problem"][:80])


def test_an_answer_has_room_for_what_mlflow_says(registry):
    """The bound is far above what a version's description has."""
    registry.version["tags"] = [{"key": f"k{n}", "value": "v" * 100} for n in range(1000)]
    assert len(following(registry).resolve().tags) == 1000
    assert mlflow_server.MAX_ANSWER_BYTES > 200_000
