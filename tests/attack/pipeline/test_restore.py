"""Archives that somebody made to write elsewhere, and what `restore` does with them."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import time

import pytest

from devopsgpt_model.atomic import atomic_folder
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.operations.backup import BackupError, backup
from devopsgpt_pipeline.operations.restore import restore
from devopsgpt_pipeline.settings import Settings

PAGE = b"<p>page</p>"


@pytest.fixture(autouse=True)
def no_databases_of_the_caller(monkeypatch):
    for name in (
        "DAGSTER_POSTGRES_URL",
        "MLFLOW_BACKEND_STORE_URI",
        "MLFLOW_ARTIFACTS_DESTINATION",
    ):
        monkeypatch.delenv(name, raising=False)


def facts(content):
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def file(name, content=PAGE, **fields):
    return name, {"content": content, **fields}


def link(name, target, kind=tarfile.SYMTYPE):
    return name, {"type": kind, "linkname": target}


def archive(path, members, manifest=None, **changed):
    """A tar of members, and a manifest that names them rightly where none is given."""
    files = {name: facts(each["content"]) for name, each in members if "content" in each}
    links = {name: each["linkname"] for name, each in members if "linkname" in each}
    table = {"format": 1, "created": 0, "files": files, "links": links} | changed
    said = json.dumps(table).encode() if manifest is None else manifest
    with tarfile.open(path, "w") as tar:
        for name, each in [*members, file("manifest.json", said)]:
            member = tarfile.TarInfo(name)
            content = each.get("content", b"")
            member.size = len(content)
            for field, value in each.items():
                if field != "content":
                    setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))
    return path


def refused(source, tmp_path):
    """The one sentence of a restore that left nothing behind."""
    before = {path for path in tmp_path.rglob("*") if path != source}
    with pytest.raises(BackupError) as caught:
        restore(source, Settings(home=tmp_path / "place" / "home"))
    place = tmp_path / "place"
    assert {path for path in tmp_path.rglob("*") if path != source} - before <= {place}
    said = str(caught.value)
    assert "\n" not in said
    return said.removeprefix(f"{source}: ")


OUTSIDE = "{tmp}/outside"
HOSTILE = {
    "an absolute name": [file(OUTSIDE + "/file")],
    "a name with ..": [file("home/../../outside/file")],
    "a name above": [file("../outside/file")],
    "a name in no place of a backup": [file("elsewhere/file")],
    "a link to an absolute path": [link("home/l", OUTSIDE)],
    "a link above its folder": [link("home/l", "../../../outside")],
    "a link to ..": [link("home/l", "..")],
    "a link in its folder's folder": [link("home/l", "folder/file")],
    "a file through a link": [link("home/l", "m"), file("home/l/file")],
    "a chain of links, tarfile's own escape": [
        *(link(f"home/{'d/' * at}l", "d") for at in range(3)),
        link("home/l/l/l/up", "../../../../outside"),
        file("home/l/l/l/up/file"),
    ],
    "a name twice": [file("home/f"), file("home/f")],
    "a file and a link of one name": [file("home/f"), link("home/f", "g")],
    "a name that is a folder, too": [file("home/f"), file("home/f/g")],
    "a hard link": [link("home/h", "f", tarfile.LNKTYPE)],
    "a character device": [file("home/d", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a pipe": [file("home/d", b"", type=tarfile.FIFOTYPE)],
    "a folder that is named as a file": [file("home/d", b"", type=tarfile.DIRTYPE)],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_writes_nothing(what, tmp_path, tried):
    (tmp_path / "outside").mkdir()
    members = [
        (name.format(tmp=tmp_path), {**each, **({"linkname": each["linkname"].format(tmp=tmp_path)}
                                               if "linkname" in each else {})})
        for name, each in HOSTILE[what]
    ]  # fmt: skip
    said = refused(archive(tmp_path / "b.tar", members), tmp_path)
    assert list((tmp_path / "outside").iterdir()) == []
    tried(what, said.replace(str(tmp_path), ""))


UNNAMED = {
    "a file that the manifest does not name": file("home/more"),
    "a link that it does not name": link("home/l", "f"),
    "a folder that it does not name": file("home/d", b"", type=tarfile.DIRTYPE),
    "a device that it does not name": file("home/d", b"", type=tarfile.BLKTYPE),
}


@pytest.mark.parametrize("what", UNNAMED)
def test_what_the_manifest_does_not_name_is_refused(what, tmp_path, tried):
    members = [file("home/f"), UNNAMED[what]]
    source = archive(tmp_path / "b.tar", members, files={"home/f": facts(PAGE)}, links={})
    said = refused(source, tmp_path)
    assert "is not in its manifest" in said
    tried(what, said)


CHANGED = {
    "a file named as a link": {"files": {}, "links": {"home/f": "g"}},
    "another size": {"files": {"home/f": {**facts(PAGE), "size": 3}}},
    "another hash": {"files": {"home/f": {**facts(PAGE), "sha256": "0" * 64}}},
    "a file that is not there": {"files": {"home/f": facts(PAGE), "home/g": facts(PAGE)}},
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_is_not_as_its_manifest_says_is_refused(what, tmp_path, tried):
    said = refused(archive(tmp_path / "b.tar", [file("home/f")], **CHANGED[what]), tmp_path)
    tried(f"a manifest with {what}", said)


MALFORMED = {
    "no JSON": b"{",
    "no UTF-8": b"\xff",
    "a list": b"[]",
    "nothing": b"",
    "null": b"null",
    "no files": b'{"format": 1, "links": {}}',
    "files as a list": b'{"format": 1, "files": ["home/f"], "links": {}}',
    "facts that are text": b'{"format": 1, "links": {}, "files": {"home/f": "x"}}',
    "a negative size": json.dumps(
        {"format": 1, "links": {}, "files": {"home/f": {"size": -1, "sha256": "0" * 64}}}
    ).encode(),
    "a link to a number": b'{"format": 1, "files": {}, "links": {"home/l": 1}}',
    "a null byte": b'{"format": 1, "files": {}, "links": {"home/l": "a\\u0000b"}}',
    "deep nesting": b"[" * 100_000,
    "a number of 5,000 digits": b'{"format": ' + b"1" * 5_000 + b"}",
    "another format": b'{"format": 2}',
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_manifest_gets_one_sentence(what, tmp_path, tried):
    said = refused(archive(tmp_path / "b.tar", [], manifest=MALFORMED[what]), tmp_path)
    assert "manifest is malformed" in said or "has format 2, this program reads 1" in said
    tried(f"a manifest of {what}", said.replace(str(tmp_path), "")[:120])


@pytest.mark.parametrize("size", [-512, 2**33, 2**63, 2**80])
def test_a_size_that_no_file_has_ends_the_restore(size, tmp_path, tried):
    member = tarfile.TarInfo("home/f")
    member.size = size
    header = member.tobuf(tarfile.GNU_FORMAT)
    source = archive(tmp_path / "b.tar", [file("home/g")])
    source.write_bytes(header + source.read_bytes())
    tried(f"a member of {size} bytes", refused(source, tmp_path).replace(str(tmp_path), ""))


def test_a_small_file_does_not_unpack_into_a_large_one(tmp_path, tried):
    plain = archive(tmp_path / "b.tar", [file("home/zeros", bytes(10**6))])
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    tried("a compressed archive", refused(plain, tmp_path).replace(str(tmp_path), ""))


def as_written_before(path, home):
    """An archive as the first format's code wrote it: files with their times and rights (in
    extended headers), links, no folders, and the manifest last, indented."""
    files, links = {}, {}
    with tarfile.open(path, mode="w") as tar:
        for found in sorted(home.rglob("*")):
            name = f"home/{found.relative_to(home)}"
            if found.is_symlink():
                member = tarfile.TarInfo(name)
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(found)
                tar.addfile(member)
                links[name] = member.linkname
            elif found.is_file() and not any(above.is_symlink() for above in found.parents):
                with found.open("rb") as opened:
                    tar.addfile(tar.gettarinfo(fileobj=opened, arcname=name), opened)
                files[name] = facts(found.read_bytes())
        table = {"format": 1, "created": int(time.time()), "files": files, "links": links}
        content = json.dumps(table, indent=1, sort_keys=True).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("write", ["before", "now"])
def test_sound_backups_come_back_with_links_times_and_rights(write, tmp_path):
    home = Home(tmp_path / "home").prepare()
    with atomic_folder(home.finetuned) as folder:
        (folder / "model.safetensors").write_bytes(bytes(100_000))
    odd = home.path / "chapters" / ("ä" * 60) / ("long" * 40)
    odd.mkdir(parents=True)
    (odd / "page.html").write_bytes(PAGE)
    (odd / "page.html").chmod(0o750)
    os.utime(odd / "page.html", (1_700_000_000.5, 1_700_000_000.5))
    (odd / "empty").touch()
    target = tmp_path / "b.tar"
    if write == "before":
        as_written_before(target, home.path)
    else:
        backup(Settings(home=home.path), target)
    place = Home(tmp_path / "place" / "home")
    restore(target, Settings(home=place.path))
    back = place.path / (odd / "page.html").relative_to(home.path)
    assert back.read_bytes() == PAGE
    assert back.stat().st_mode & 0o777 == 0o750
    assert back.stat().st_mtime == 1_700_000_000.5
    assert back.with_name("empty").read_bytes() == b""
    assert os.readlink(place.finetuned) == os.readlink(home.finetuned)
    assert (place.finetuned / "model.safetensors").stat().st_size == 100_000


def test_a_link_that_could_not_come_back_is_not_backed_up(tmp_path):
    home = Home(tmp_path / "home").prepare()
    (home.path / "l").symlink_to(tmp_path)
    with pytest.raises(BackupError, match="accepts only links to a name in their own folder"):
        backup(Settings(home=home.path), tmp_path / "b.tar")
