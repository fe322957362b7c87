"""Versions on disk: whole and verified, or not there."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

from devopsgpt_serving.errors import DamagedVersion
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.cache import VersionCache


def version_of(number, source="models:/m-1"):
    return Version("devopsgpt", str(number), source, 0, {"val_loss": "1"})


@pytest.fixture
def cache(tmp_path):
    cache = VersionCache(tmp_path / "cache", max_bytes=1_000_000)
    cache.prepare()
    return cache


def fill(folder, content=b"weights" * 100):
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps({"files": {"model/weights": facts}}))


def keep(cache, version, content=b"weights" * 100):
    with cache.staging() as staging:
        fill(staging, content)
        return cache.keep(staging, version)


def test_a_kept_version_is_found_again(cache):
    folder = keep(cache, version_of(1))
    assert cache.verified(version_of(1)) == folder
    assert cache.verified(version_of(2)) is None
    assert list(cache.folder.glob(".download-*")) == []


def test_the_same_number_from_another_registry_is_another_version(cache):
    keep(cache, version_of(1))
    assert cache.verified(version_of(1, "models:/m-2")) is None


@pytest.mark.parametrize("damage", [b"weights" * 99 + b"weightz", b"short", None])
def test_a_damaged_file_is_noticed_and_removed(cache, damage):
    path = keep(cache, version_of(1)) / "model" / "weights"
    path.write_bytes(damage) if damage else path.unlink()
    assert cache.verified(version_of(1)) is None
    assert not path.parent.parent.exists()


@pytest.mark.parametrize(
    "name", ["../evil", "model/../evil", "/etc/passwd", "model/.hidden", "other/x", "model/a/b"]
)
def test_a_manifest_names_plain_files_only(cache, name):
    with cache.staging() as staging:
        (staging / "manifest.json").write_text(
            json.dumps({"files": {name: {"sha256": "0", "size": 1}}})
        )
        with pytest.raises(DamagedVersion, match="model/<name> only"):
            cache.keep(staging, version_of(1))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"files": {}}', '{"files": {"model/x": {}}}']
)
def test_a_manifest_that_is_none_is_refused(cache, content):
    with cache.staging() as staging:
        (staging / "manifest.json").write_text(content)
        with pytest.raises(DamagedVersion, match=r"manifest\.json"):
            cache.keep(staging, version_of(1))


def test_the_version_used_longest_ago_goes_first(cache):
    for number in (1, 2, 3):
        os.utime(keep(cache, version_of(number), b"x" * 400_000), (number, number))
    cache.verified(version_of(1))
    cache.trim(in_use={version_of(3).key})
    assert {path.name for path in cache.folder.iterdir()} == {version_of(1).key, version_of(3).key}


def test_the_version_in_use_stays_whatever_its_size(cache):
    keep(cache, version_of(1), b"x" * 2_000_000)
    cache.trim(in_use={version_of(1).key})
    assert cache.verified(version_of(1)) is not None


def test_what_a_killed_download_left_is_cleared(cache):
    code = f"""
import os, signal
from pathlib import Path
from devopsgpt_serving.versions.cache import VersionCache
with VersionCache(Path({str(cache.folder)!r}), 1).staging() as staging:
    (staging / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    with cache.staging() as under_way:
        assert len(list(cache.folder.glob(".download-*"))) == 2
        VersionCache(cache.folder, 1).prepare()
        assert list(cache.folder.glob(".download-*")) == [under_way]


def test_room_is_made_by_what_was_used_longest_ago_and_nobody_needs(cache, monkeypatch):
    for number in (1, 2, 3, 4, 5):
        os.utime(keep(cache, version_of(number), b"x" * 100_000), (number, number))
    cache.remember(version_of(1), "champion")
    monkeypatch.setattr(VersionCache, "free_bytes", lambda _: 50_000)

    def left(needed):
        cache.make_room(needed, in_use={version_of(2).key})
        return sorted(path.name[0] for path in cache.folder.glob("[0-9]*"))

    assert left(50_000) == ["1", "2", "3", "4", "5"], "it fits"
    assert left(600_000) == ["1", "2", "3", "4", "5"], "it would not fit, whatever is dropped"
    assert left(150_000) == ["1", "2", "4", "5"]
    assert left(200_000) == ["1", "2"]
    assert left(51_000) == ["1", "2"], "nothing is left to drop"


def test_what_any_service_of_the_cache_served_last_stays(cache):
    for number in (1, 2, 3):
        os.utime(keep(cache, version_of(number), b"x" * 600_000), (number, number))
    cache.remember(version_of(1), "champion")
    cache.trim(in_use={version_of(3).key})
    assert {path.name for path in cache.folder.glob("[0-9]*")} == {
        version_of(1).key,
        version_of(3).key,
    }
    cache.remember(version_of(3), "champion")
    cache.trim(in_use=set())
    assert [path.name for path in cache.folder.glob("[0-9]*")] == [version_of(3).key]


def test_the_last_good_version_is_remembered(cache):
    assert cache.last_good("devopsgpt", "champion") is None
    cache.remember(version_of(3), "champion")
    assert cache.last_good("devopsgpt", "champion") == version_of(3)
    (note,) = cache.folder.glob("last_good-*.json")
    half = '{"alias": "champion", "version": {"name": "devopsgpt"}}'
    for damaged in ("{", "[]", "{}", half, '{"alias": "champion", "version": "3"}'):
        note.write_text(damaged)
        assert cache.last_good("devopsgpt", "champion") is None
        cache.trim(in_use=set())


def test_a_note_has_the_names_that_earlier_builds_read(cache):
    cache.remember(version_of(3), "champion")
    (note,) = cache.folder.glob("last_good-*.json")
    noted = json.loads(note.read_text())["version"]
    assert noted.keys() == {"name", "version", "source", "created", "tags"}
    assert noted["version"] == "3"


def test_another_name_or_alias_has_another_memory(cache):
    cache.remember(version_of(3), "champion")
    cache.remember(version_of(4), "challenger")
    assert cache.last_good("devopsgpt", "champion") == version_of(3)
    assert cache.last_good("devopsgpt", "challenger") == version_of(4)
    assert cache.last_good("other", "champion") is None
    copied, original = cache._note("other", "champion"), cache._note("devopsgpt", "champion")
    copied.write_bytes(original.read_bytes())
    assert cache.last_good("other", "champion") is None, "the note itself tells whose it is"


@pytest.mark.parametrize(
    "name", ["../../evil", "/etc/passwd", "a/b", "team:model", "ü" * 500, "", "\udc80"]
)
def test_any_name_is_a_file_of_the_cache(cache, name):
    version = Version(name, "1", "models:/m-1", 0)
    cache.remember(version, name)
    assert cache.last_good(name, name) == version
    assert [path.parent for path in cache.folder.parent.rglob("*.json")] == [cache.folder]
