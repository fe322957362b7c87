"""Normalization, held-out chapters, leaks, and the text on disk."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.text import corpus
from devopsgpt_pipeline.text.clean import normalize
from devopsgpt_pipeline.text.corpus import DamagedText, NoChapters, clean_book, read_texts
from devopsgpt_pipeline.text.held_out import held_out
from devopsgpt_pipeline.text.leaks import SharedRun, shared_runs
from devopsgpt_pipeline.text.page_to_text import EmptyChapter


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_normalizing_twice_is_normalizing_once(text):
    assert normalize(normalize(text)) == normalize(text)
    assert normalize(text).encode().decode() == normalize(text)


def test_line_breaks_and_indentation_stay():
    assert normalize("a\r\n\tb\n    c\u2028d") == "a\n\tb\n    c\nd"


def test_a_chapter_never_changes_sides():
    assert [
        held_out("sre-book", slug, 0.3)
        for slug in ("foreword", "introduction", "simplicity", "monitoring")
    ] == [
        held_out("sre-book", slug, 0.3)
        for slug in ("foreword", "introduction", "simplicity", "monitoring")
    ]
    assert held_out("sre-book", "preface", 1.0)
    assert not held_out("sre-book", "preface", 0.0)
    share = sum(held_out("book", str(number), 0.2) for number in range(5000)) / 5000
    assert 0.18 < share < 0.22
    bigger = [number for number in range(500) if held_out("book", str(number), 0.1)]
    assert all(held_out("book", str(number), 0.2) for number in bigger)


def test_the_same_slug_is_drawn_for_each_book_apart():
    draws = {held_out(book, "preface", 0.5) for book in ("a", "b", "c", "d", "e", "f", "g", "h")}
    assert draws == {True, False}


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction must be 0\.\.1"):
        held_out("a", "b", fraction)


def test_shared_runs_are_found_whole_with_their_places():
    rng = np.random.default_rng(7)
    train = {"one": rng.integers(0, 50_000, 5_000), "two": rng.integers(0, 50_000, 3_000)}
    held = {"three": rng.integers(0, 50_000, 2_000), "four": rng.integers(0, 50_000, 40)}
    held["three"][100:170] = train["two"][900:970]
    held["three"][500:549] = train["one"][0:49]
    held["three"][1950:2000] = train["one"][4950:5000]
    assert shared_runs(train, held) == [
        SharedRun("two", 900, "three", 100, 70),
        SharedRun("one", 4950, "three", 1950, 50),
    ]
    assert shared_runs(train, held, n=49)[1] == SharedRun("one", 0, "three", 500, 49)


def test_documents_without_a_run_share_nothing():
    assert shared_runs({}, {"a": [1] * 100}) == []
    assert shared_runs({"a": [1] * 100}, {}) == []
    assert shared_runs({"a": [1] * 49}, {"b": [1] * 49}) == []
    assert shared_runs({"a": []}, {"b": []}) == []
    with pytest.raises(ValueError, match="n must be 1 or more"):
        shared_runs({}, {}, n=0)


def test_repeated_tokens_do_not_blow_up():
    assert shared_runs({"a": [5] * 20_000}, {"b": [5] * 10_000}) == [
        SharedRun("a", 0, "b", 0, 10_000)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2), max_size=40),
    st.lists(st.integers(0, 2), max_size=40),
    st.integers(1, 6),
)
def test_shared_runs_agree_with_the_plain_search(train, held, n):
    grams = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
    expected = {i for i in range(len(held) - n + 1) if tuple(held[i : i + n]) in grams}
    covered = set()
    for run in shared_runs({"t": train}, {"h": held}, n):
        assert (
            train[run.train_start : run.train_start + run.length]
            == held[run.held_out_start :][: run.length]
        )
        covered |= set(range(run.held_out_start, run.held_out_start + run.length - n + 1))
    assert covered == expected


@pytest.fixture
def scraped(book, fetcher, archive):
    assert scrape_book(book, fetcher, archive).accepted
    return archive


def test_clean_text_lies_beside_its_manifest(book, scraped, tmp_path):
    report = clean_book(scraped.folder, tmp_path / "text", book)
    assert len(report.chapters) == len(report.written) == 6
    (first, words), *_ = read_texts(tmp_path / "text")
    assert (first.order, first.slug, first.title) == (1, "on-the-ferry", "On the ferry")
    assert words.startswith("On the ferry\n\nThe ferry first was seen 0 times")
    assert "Nobody" not in words
    assert sum(row.chars for row, _ in read_texts(tmp_path / "text")) == report.chars


def test_cleaning_again_changes_nothing(book, scraped, tmp_path):
    first = clean_book(scraped.folder, tmp_path / "text", book)
    second = clean_book(scraped.folder, tmp_path / "text", book)
    assert second.written == second.removed == ()
    assert second.data_version == first.data_version


def test_an_edited_book_rewrites_only_what_changed(book, scraped, fetcher, book_site, tmp_path):
    first = clean_book(scraped.folder, tmp_path / "text", book)
    book_site.chapter("on-the-lamp").inside += "<p>More.</p>"
    book_site.chapters.remove(book_site.chapter("on-the-tide"))
    assert scrape_book(book, fetcher, scraped).accepted
    second = clean_book(scraped.folder, tmp_path / "text", book)
    assert (second.written, second.removed) == (("on-the-lamp",), ("on-the-tide",))
    assert second.data_version != first.data_version
    assert sorted(path.name for path in (tmp_path / "text").glob("*.txt")) == sorted(
        f"{row.slug}.txt" for row, _ in read_texts(tmp_path / "text")
    )


def test_one_chapter_that_cannot_be_read_changes_nothing(book, scraped, tmp_path):
    clean_book(scraped.folder, tmp_path / "text", book)
    before = {path.name: path.read_bytes() for path in (tmp_path / "text").iterdir()}
    rows = scraped.rows()
    body = b'<div id="maia-main"><div id="content"></div></div>'
    rows[3] = corpus_row(rows[3], body)
    scraped.switch(rows, {rows[3].slug: body})
    with pytest.raises(EmptyChapter, match=r"local-book, '4\. On the harbour'"):
        clean_book(scraped.folder, tmp_path / "text", book)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "text").iterdir()}


def corpus_row(row, body):
    return replace(row, page_sha256=sha256(body).hexdigest(), content_sha256="none")


def test_a_book_that_was_not_scraped_is_said(book, tmp_path):
    with pytest.raises(NoChapters, match="scrape the book first"):
        clean_book(tmp_path / "none", tmp_path / "text", book)
    with pytest.raises(NoChapters, match="clean the book first"):
        read_texts(tmp_path / "text")


@pytest.mark.parametrize("damage", ["text", "manifest", "gone"])
def test_damaged_text_is_a_readable_error(book, scraped, tmp_path, damage):
    clean_book(scraped.folder, tmp_path / "text", book)
    path = tmp_path / "text" / ("manifest.json" if damage == "manifest" else "on-the-lamp.txt")
    if damage == "gone":
        path.unlink()
    else:
        path.write_text("{")
    with pytest.raises(DamagedText, match="remove the folder and clean the book again"):
        read_texts(tmp_path / "text")
    assert corpus.clean_book(scraped.folder, tmp_path / "text", book).written in (
        (),
        ("on-the-lamp",),
    )
    assert len(read_texts(tmp_path / "text")) == 6
