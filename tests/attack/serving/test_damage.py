"""Damaged files in the cache, each kind, and a killed engine thread: what is served then."""

import ctypes
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving.conftest import serving, until


def only(cache, pattern):
    (path,) = cache.glob(pattern)
    return path


def overwrite(pattern, change):
    """change: of the bytes of the file that the pattern finds"""

    def damage(cache):
        path = only(cache, pattern)
        path.write_bytes(change(path.read_bytes()))

    return damage


def replaced(pattern, by):
    def damage(cache):
        path = only(cache, pattern)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        by(path)

    return damage


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


WEIGHTS, MANIFEST, NOTE = "1-*/model/model.safetensors", "1-*/manifest.json", "last_good-*.json"
NOTHING = lambda path: None  # noqa: E731
FOLDER = lambda path: path.mkdir()  # noqa: E731
DAMAGES = {
    "a bit of the weights": overwrite(WEIGHTS, flipped),
    "weights cut short": overwrite(WEIGHTS, lambda content: content[:-10]),
    "weights that grew": overwrite(WEIGHTS, lambda content: content + b"x"),
    "weights that are empty": overwrite(WEIGHTS, lambda content: b""),
    "weights of zeros": overwrite(WEIGHTS, lambda content: bytes(len(content))),
    "weights that are gone": replaced(WEIGHTS, NOTHING),
    "weights that are a folder": replaced(WEIGHTS, FOLDER),
    "weights that are a link to nowhere": replaced(
        WEIGHTS, lambda path: path.symlink_to("/nowhere")
    ),
    "weights that are an endless device": replaced(
        WEIGHTS, lambda path: path.symlink_to("/dev/zero")
    ),
    "a bit of the config": overwrite("1-*/model/config.json", flipped),
    "a tokenizer that is gone": replaced("1-*/model/tokenizer.json", NOTHING),
    "a manifest that is gone": replaced(MANIFEST, NOTHING),
    "a manifest that is a folder": replaced(MANIFEST, FOLDER),
    "a manifest cut short": overwrite(MANIFEST, lambda content: content[:-10]),
    "a manifest of zeros": overwrite(MANIFEST, lambda content: bytes(len(content))),
    "a manifest nested without end": overwrite(MANIFEST, lambda content: b"[" * 100_000),
    "a manifest of another version": overwrite(
        MANIFEST, lambda content: content.replace(b'"sha256": "', b'"sha256": "0')
    ),
    "model/ that is gone": replaced("1-*/model", NOTHING),
    "model/ that is a file": replaced("1-*/model", lambda path: path.write_text("x")),
    "the version's folder is gone": replaced("1-*", NOTHING),
    "the version's folder is empty": replaced("1-*", FOLDER),
    "the version's folder is a file": replaced("1-*", lambda path: path.write_text("x")),
    "the version's folder is a link to nowhere": replaced(
        "1-*", lambda path: path.symlink_to("/nowhere")
    ),
}
HARMLESS = {
    "version.json of zeros": overwrite("1-*/version.json", lambda content: bytes(len(content))),
    "a file too many": lambda cache: (only(cache, "1-*") / "model" / "more").write_text("x"),
    "a half-written download": lambda cache: (cache / ".download-x").mkdir(),
    "a half-written download that is a file": lambda cache: (cache / ".download-x").touch(),
    "a mark that is a folder": lambda cache: (cache / ".loading-x").mkdir(),
    "something else": lambda cache: (cache / "12-x").write_text("x"),
}
FORGOTTEN = {
    "a note that is gone": replaced(NOTE, NOTHING),
    "a note that is a folder": replaced(NOTE, FOLDER),
    "a note cut short": overwrite(NOTE, lambda content: content[:-10]),
    "a note of zeros": overwrite(NOTE, lambda content: bytes(len(content))),
    "a note nested without end": overwrite(NOTE, lambda content: b"[" * 100_000),
    "a note of another shape": overwrite(NOTE, lambda content: b'{"version": [], "alias": 1}'),
    "a note of a number that is none": overwrite(
        NOTE, lambda content: content.replace(b'"version": "1"', b'"version": "../1"')
    ),
}


@pytest.fixture(scope="module")
def filled(common_shelf, tmp_path_factory):
    """A cache whose version was served."""
    place = tmp_path_factory.mktemp("filled")
    with serving(place, tracking_uri=common_shelf.url, model_name=common_shelf.name) as service:
        service.wait_for("1")
    return place / "cache"


@pytest.mark.parametrize("what", [*DAMAGES, *HARMLESS, *FORGOTTEN])
def test_a_damaged_cache_is_not_served_and_mends(common_shelf, filled, tmp_path, tried, what):
    shutil.copytree(filled, tmp_path / "cache")
    (DAMAGES | HARMLESS | FORGOTTEN)[what](tmp_path / "cache")
    name = common_shelf.name
    with serving(tmp_path, tracking_uri="http://127.0.0.1:9", model_name=name) as service:
        until(lambda: service.ready()["registry_up"] is False)
        if what in HARMLESS:
            service.wait_for("1")
        else:
            until(lambda: service.service.follower.state.problem is not None)
            assert service.generate("x").status_code == 503
    with serving(tmp_path, tracking_uri=common_shelf.url, model_name=name) as service:
        service.wait_for("1")
        assert service.generate("x").json()["version"] == "1"
        assert service.ready()["problem"] is None
    tried(f"in the cache, {what}", "served" if what in HARMLESS else "503, then fetched anew")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_engine_thread_is_told_and_answers_nobody_for_ever(common_shelf, tmp_path, tried):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where) as service, ThreadPoolExecutor(1) as people:
        service.wait_for("1")
        long = people.submit(service.complete, "x", max_tokens=100, n=8)
        until(lambda: service.service.engine.running)
        thread = service.service.engine._thread
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
        )
        until(lambda: not thread.is_alive())
        cut = long.result(60)
        codes = {
            path: service.http.get(path).status_code for path in ("/api/healthz", "/api/readyz")
        }
        later = service.generate("x")
        assert (cut.status_code, later.status_code) == (503, 503)
        assert codes == {"/api/healthz": 500, "/api/readyz": 503}
        assert "the engine's thread ended" in json.dumps(service.ready())
    tried(
        "the engine's thread killed in the middle of an answer",
        f"that answer {cut.status_code}, later ones {later.status_code}, {codes}",
    )


class Panic(BaseException):
    """As code in Rust raises it: no Exception."""


def test_a_panic_while_loading_refuses_the_version(shelf, tmp_path, tried):
    def panic(version, folder):
        raise Panic(f"version {version.number}")

    shelf.publish(seed=1)
    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        follower = service.service.follower
        load, follower.load = follower.load, panic
        shelf.publish(seed=2)
        until(lambda: "Panic('version 2')" in (service.ready()["problem"] or ""))
        assert service.generate("x").json()["version"] == "1"
        follower.load = load
        service.wait_for("2")
    tried("a panic while a version is loaded", "refused, and tried again")
