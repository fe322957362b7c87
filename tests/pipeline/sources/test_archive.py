"""The archive on disk: whole or not at all, earlier versions by date, readable errors."""

import hashlib
import json
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from devopsgpt_model import atomic
from devopsgpt_model.atomic import switch_files, write_atomically
from devopsgpt_pipeline.sources.archive import (
    ArchivedPage,
    ChapterArchive,
    DamagedArchive,
    NoSuchVersion,
)

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)


def row(slug, body, order=1, when=DAY, content=None):
    sha256 = hashlib.sha256(body).hexdigest()
    stamp = when.isoformat()
    return ArchivedPage(
        order=order,
        slug=slug,
        url=f"https://example.org/{slug}/",
        title=slug.title(),
        etag=None,
        last_modified=None,
        charset="utf-8",
        page_sha256=sha256,
        content_sha256=content or sha256,
        fetched_at=stamp,
        since=stamp,
    )


def put(archive, pages, when):
    """Make pages (slug -> body) the corpus in use, fetched at a time."""
    before = {old.slug: old for old in archive.rows()}
    rows, new = [], {}
    for order, (slug, body) in enumerate(pages.items(), 1):
        fresh = row(slug, body, order, when)
        old = before.get(slug)
        if old and old.page_sha256 == fresh.page_sha256:
            fresh = old
        else:
            new[slug] = body
        rows.append(fresh)
    archive.switch(rows, new, when)


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_empty_archive_has_no_rows_and_a_version(tmp_path):
    archive = ChapterArchive(tmp_path / "none")
    assert archive.rows() == []
    assert len(archive.data_version) == 64


def test_rows_and_pages_come_back(archive):
    put(archive, {"one": b"<p>1</p>", "two": b"<p>2</p>"}, DAY)
    assert [entry.slug for entry in archive.rows()] == ["one", "two"]
    assert archive.read(archive.rows()[1]) == b"<p>2</p>"
    manifest = json.loads((archive.folder / "manifest.json").read_text())
    expected = {
        "order",
        "slug",
        "url",
        "title",
        "etag",
        "last_modified",
        "content_sha256",
        "fetched_at",
    }
    assert expected <= set(manifest["chapters"][0])


def test_the_version_is_over_order_slug_title_and_content(archive):
    one, two = row("one", b"1"), row("two", b"2", 2)
    archive.switch([one, two], {"one": b"1", "two": b"2"}, DAY)
    first = archive.data_version
    archive.switch([two, one], {}, DAY)
    assert archive.data_version != first
    archive.switch([one, two], {}, DAY)
    assert archive.data_version == first


def test_earlier_versions_are_retrievable_by_date(archive):
    day = timedelta(days=1)
    put(archive, {"one": b"first", "two": b"2"}, DAY)
    put(archive, {"one": b"second", "two": b"2"}, DAY + 2 * day)
    put(archive, {"one": b"third"}, DAY + 4 * day)
    assert archive.read(archive.version_at("one", DAY + day)) == b"first"
    assert archive.read(archive.version_at("one", DAY + 2 * day)) == b"second"
    assert archive.read(archive.version_at("one", DAY + 3 * day)) == b"second"
    assert archive.read(archive.version_at("one", DAY + 9 * day)) == b"third"
    assert archive.read(archive.version_at("two", DAY + 3 * day)) == b"2"
    assert [page.slug for page in archive.history()] == ["one", "one", "two"]
    for slug, when in (("one", DAY - day), ("two", DAY + 5 * day), ("three", DAY)):
        with pytest.raises(NoSuchVersion, match="no version of"):
            archive.version_at(slug, when)


def test_a_page_whose_content_stayed_is_no_version(archive):
    put(archive, {"one": b"first"}, DAY)
    changed = row("one", b"same content, new script", content=archive.rows()[0].content_sha256)
    archive.switch([changed], {"one": b"same content, new script"}, DAY)
    assert archive.history() == []


def test_history_ends_with_its_retention(tmp_path):
    archive = ChapterArchive(tmp_path / "book", history_days=10)
    day = timedelta(days=1)
    put(archive, {"one": b"first"}, DAY)
    put(archive, {"one": b"second"}, DAY + 2 * day)
    put(archive, {"one": b"third"}, DAY + 8 * day)
    assert len(archive.history("one")) == 2
    put(archive, {"one": b"fourth"}, DAY + 13 * day)
    assert [page.until[:10] for page in archive.history("one")] == ["2026-11-09", "2026-11-14"]
    assert len(list((archive.folder / "history" / "one").iterdir())) == 2
    with pytest.raises(NoSuchVersion):
        archive.version_at("one", DAY)


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(12))
def test_a_switch_that_is_cut_off_anywhere_happens_whole_or_not_at_all(archive, monkeypatch, step):
    put(archive, {"one": b"old 1", "two": b"old 2", "three": b"3"}, DAY)
    calls = 0

    def dying(function):
        def call(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls > step:
                raise _Killed
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "replace", dying(os.replace))
        patch.setattr(atomic.Path, "write_bytes", dying(atomic.Path.write_bytes))
        patch.setattr(atomic.Path, "unlink", dying(atomic.Path.unlink))
        with suppress(_Killed):
            put(archive, {"one": b"new 1", "two": b"new 2"}, DAY + timedelta(days=1))
    with archive.held():
        pages = {entry.slug: archive.read(entry) for entry in archive.rows()}
        on_disk = {path.stem for path in archive.folder.glob("*.html")}
    assert pages in (
        {"one": b"old 1", "two": b"old 2", "three": b"3"},
        {"one": b"new 1", "two": b"new 2"},
    )
    assert on_disk == set(pages)
    assert not (archive.folder / ".next").exists()
    put(archive, {"one": b"newest"}, DAY + timedelta(days=2))
    assert archive.read(archive.rows()[0]) == b"newest"


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", '{"chapters": [{"slug": "one"}]}', '{"chapters": 3}', '{"chapters": ["x"]}'],
)
def test_a_damaged_manifest_is_a_readable_error(archive, manifest):
    put(archive, {"one": b"1"}, DAY)
    (archive.folder / "manifest.json").write_text(manifest)
    with pytest.raises(DamagedArchive, match=r"manifest\.json cannot be read .*; move .* away"):
        archive.rows()


def test_a_page_that_is_gone_or_another_is_a_readable_error(archive):
    put(archive, {"one": b"1"}, DAY)
    (archive.folder / "one.html").write_bytes(b"cut")
    with pytest.raises(DamagedArchive, match="is not the page that the manifest tells of"):
        archive.read(archive.rows()[0])
    (archive.folder / "one.html").unlink()
    with pytest.raises(DamagedArchive, match="not on disk"):
        archive.read(archive.rows()[0])


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"1")
    write_atomically(path, b"2")
    assert files_of(tmp_path) == {"deep/file.json": b"2"}


def test_a_switch_replaces_adds_and_removes(tmp_path):
    for name in ("a", "b", "m"):
        (tmp_path / name).write_bytes(b"old")
    switch_files(
        tmp_path, {"a": b"new", "sub/c": b"new", "m": b"new"}, ["b", "never-there"], last="m"
    )
    assert files_of(tmp_path) == {"a": b"new", "sub/c": b"new", "m": b"new"}
