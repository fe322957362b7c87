"""Observation and scrape over a real site: what is asked, what is taken in, what is kept."""

import time
from dataclasses import replace

import pytest

from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.observe import observe_book
from devopsgpt_pipeline.sources.pages.contents import ContentsUnreadable
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.sources.web.answers import FetchFailed, FetchRefused
from devopsgpt_pipeline.sources.web.fetch import Fetcher
from pipeline.conftest import QUICK
from pipeline.sources import harms
from pipeline.sources.book_site import Chapter, always, page, redirect, sentence, status
from pipeline.sources.harms import HARMS


def changes(report):
    return {row.slug: row.change for row in report.changes if row.change != "unchanged"}


@pytest.fixture
def scraped(book, fetcher, archive, book_site):
    """The archive after a first scrape; the site's log begins anew."""
    report = scrape_book(book, fetcher, archive)
    assert report.accepted
    book_site.log.clear()
    return report


def test_a_first_scrape_archives_every_chapter_as_served(book, fetcher, archive, book_site):
    report = scrape_book(book, fetcher, archive)
    assert report.accepted
    assert report.switched
    assert report.chapters == 6
    assert set(changes(report).values()) == {"added"}
    assert [left.title for left in report.left_out] == ["Table of Contents", "Index", "Colophon"]
    rows = archive.rows()
    assert [row.order for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert archive.read(row) == book_site.page(f"/local-book/{row.slug}/")
    assert (archive.folder / "on-the-lamp.html").read_bytes() == book_site.page(
        "/local-book/on-the-lamp/"
    )


def test_the_observation_and_the_archive_agree(book, fetcher, archive, scraped):
    assert (
        observe_book(book, fetcher, archive).data_version
        == scraped.data_version
        == archive.data_version
    )


def test_an_unchanged_book_costs_one_conditional_request_per_page(
    book, fetcher, archive, scraped, book_site
):
    read = fetcher.body_bytes
    observation = observe_book(book, fetcher, archive)
    assert observation.requests == observation.not_modified == 7
    assert fetcher.body_bytes == read
    report = scrape_book(book, fetcher, archive)
    assert set(book_site.statuses()) == {304}
    assert not report.switched
    assert changes(report) == {}


def test_what_the_observation_downloaded_the_scrape_takes_in_without_a_second_download(
    book, fetcher, archive, scraped, book_site
):
    book_site.chapter("on-the-tide").inside += "<p>And one more thing about it.</p>"
    observation = observe_book(book, fetcher, archive)
    assert observation.downloaded == 1
    book_site.log.clear()
    report = scrape_book(book, fetcher, archive)
    assert set(book_site.statuses()) == {304}
    assert changes(report) == {"on-the-tide": "changed"}
    assert report.data_version == observation.data_version != scraped.data_version


def test_a_scrape_soon_after_an_observation_need_not_ask_again(book, fetcher, archive, book_site):
    observe_book(book, fetcher, archive)
    book_site.log.clear()
    report = scrape_book(book, fetcher, archive, reuse_seen_within_s=60)
    assert book_site.statuses() == []
    assert report.reused == 7
    assert report.chapters == 6


def test_without_validators_content_decides(book, fetcher, archive, book_site):
    book_site.validators = False
    first = scrape_book(book, fetcher, archive)
    time.sleep(1.1)  # the same page fetched in another second is the same page
    second = scrape_book(book, fetcher, archive)
    assert second.downloaded == 7
    assert not second.switched
    assert second.data_version == first.data_version


def test_without_the_seen_pages_the_archive_is_asked_about(
    book, fetcher, archive, scraped, book_site
):
    for path in (archive.folder / "seen").iterdir():
        path.unlink()
    scrape_book(book, fetcher, archive)
    assert book_site.statuses() == [200, *[304] * 6]


@pytest.mark.parametrize("damage", ["{", "[]", '{"pages": {"x": {}}, "unfinished_since": null}'])
def test_damaged_seen_pages_are_asked_for_again(book, fetcher, archive, scraped, damage):
    (archive.folder / "seen" / "index.json").write_text(damage)
    assert not scrape_book(book, fetcher, archive).switched


def test_a_deploy_of_the_site_changes_nothing(book, fetcher, archive, scraped, book_site):
    book_site.deploy = "2222222"
    assert observe_book(book, fetcher, archive).data_version == scraped.data_version
    report = scrape_book(book, fetcher, archive)
    assert report.data_version == scraped.data_version
    assert changes(report) == {}
    assert archive.history() == []
    assert b"2222222" in archive.read(archive.rows()[0])


def test_whitespace_and_attributes_are_not_content(book, fetcher, archive, scraped, book_site):
    chapter = book_site.chapter("on-the-lamp")
    chapter.inside = chapter.inside.replace("<p>", '<p class="x"\n>').replace(" was ", "\n  was ")
    assert observe_book(book, fetcher, archive).data_version == scraped.data_version


def _edit(site):
    chapter = site.chapter("on-the-lamp")
    chapter.inside = chapter.inside.replace("seen 2 times", "seen twice")


def _add(site):
    site.chapters.insert(2, Chapter("on-ropes", "2a. On Ropes", f"<p>{sentence('rope', 9)}</p>"))


def _remove(site):
    site.chapters.remove(site.chapter("on-the-tide"))


def _rename(site):
    site.chapter("on-the-tide").title = "3. On Tides"


def _reorder(site):
    site.chapters[0], site.chapters[1] = site.chapters[1], site.chapters[0]


@pytest.mark.parametrize(
    ("change", "table"),
    [
        (_edit, {"on-the-lamp": "changed"}),
        (_add, {"on-ropes": "added"}),
        (_remove, {"on-the-tide": "removed"}),
        (_rename, {"on-the-tide": "renamed"}),
        (_reorder, {"on-the-ferry": "moved"}),
    ],
)
def test_each_kind_of_change_is_noticed_taken_in_and_named(
    book, fetcher, archive, scraped, book_site, change, table
):
    change(book_site)
    observation = observe_book(book, fetcher, archive)
    assert observation.data_version != scraped.data_version
    report = scrape_book(book, fetcher, archive)
    found = changes(report)
    assert found == table or (change is _reorder and found == {"on-the-lamp": "moved"})
    assert report.data_version == observation.data_version == archive.data_version
    assert observe_book(book, fetcher, archive).data_version == report.data_version


def test_an_edit_is_told_with_characters_and_a_readable_diff(
    book, fetcher, archive, scraped, book_site
):
    _edit(book_site)
    report = scrape_book(book, fetcher, archive)
    (row,) = [row for row in report.changes if row.change == "changed"]
    assert (row.gained, row.lost) == (3 * len("twice"), 3 * len("2 times"))
    assert "-The lamp first was seen 2 times and noted down in the book of the watch." in row.diff
    assert "+The lamp first was seen twice and noted down in the book of the watch." in row.diff
    assert "| 2. On the lamp | changed |" in report.table
    assert "```diff" in report.diff
    assert report.summary == "local-book: 1 changed, 5 unchanged"


def test_a_failed_chapter_fails_alone(book, fetcher, archive, scraped, book_site):
    book_site.fail("on-the-tide", status(500))
    _edit(book_site)
    report = scrape_book(book, fetcher, archive)
    assert report.accepted
    (failure,) = report.failed
    assert (failure.slug, failure.reason) == ("on-the-tide", "status 500 Internal Server Error")
    assert changes(report) == {"on-the-lamp": "changed"}
    assert report.chapters == 6
    assert "status 500" in report.table
    assert archive.read(archive.rows()[2])
    assert scrape_book(book, fetcher, archive).failed == ()


def test_a_forbidden_chapter_fails_alone(book, fetcher, archive, book_site):
    book_site.robots = "User-agent: *\nDisallow: /local-book/on-the-tide/\n"
    report = scrape_book(book, fetcher, archive)
    assert report.accepted
    assert [failure.slug for failure in report.failed] == ["on-the-tide"]
    assert "robots.txt forbids" in report.failed[0].reason
    assert report.chapters == 5


def test_a_chapter_that_moved_to_another_host_fails_alone(
    book, fetcher, archive, book_site, other_site
):
    book_site.fail("on-the-tide", always(redirect(other_site.url("on-the-tide"))))
    report = scrape_book(book, fetcher, archive)
    assert [failure.slug for failure in report.failed] == ["on-the-tide"]
    assert other_site.log == []


def test_an_observation_counts_a_failed_chapter_as_last_seen(
    book, fetcher, archive, scraped, book_site
):
    book_site.fail("on-the-tide", status(500))
    observation = observe_book(book, fetcher, archive)
    assert observation.data_version == scraped.data_version
    assert [failure.slug for failure in observation.failed] == ["on-the-tide"]


class _Cut(BaseException):
    """As a signal would end the process."""


def test_an_interrupted_scrape_goes_on_where_it_stopped(book, fetcher, archive, book_site):
    book_site.validators = False

    def cut(done, total, line):
        if done == 3:
            raise _Cut

    with pytest.raises(_Cut):
        scrape_book(book, fetcher, archive, cut)
    assert archive.rows() == []
    book_site.log.clear()
    report = scrape_book(book, fetcher, archive)
    assert [request.path.split("/")[2] for request in book_site.log] == [
        "on-the-harbour",
        "on-the-signal",
        "on-the-anchor",
    ]
    assert (report.reused, report.downloaded, report.chapters) == (4, 3, 6)


def test_an_interruption_of_long_ago_does_not_count(book, fetcher, archive, scraped, book_site):
    index = archive.folder / "seen" / "index.json"
    text = index.read_text().replace(
        '"unfinished_since": null', '"unfinished_since": "2020-01-01T00:00:00+00:00"'
    )
    index.write_text(text)
    scrape_book(book, fetcher, archive)
    assert len(book_site.statuses()) == 7


def test_the_time_that_politeness_costs_is_said_up_front(book, archive, book_site):
    lines = []
    with Fetcher(replace(QUICK, delay_s=0.01)) as fetcher:
        scrape_book(
            book, fetcher, archive, lambda done, total, line: lines.append((done, total, line))
        )
    assert lines[0] == (0, 6, "The Local Book: 6 chapters, at least 0 s at 0.01 s between requests")
    assert lines[-1] == (6, 6, "on-the-anchor: downloaded")


def test_a_site_without_its_contents_page_stops_the_scrape_and_keeps_the_corpus(
    book, fetcher, archive, scraped, book_site
):
    book_site.fail("table-of-contents", status(500), status(500))
    with pytest.raises(FetchFailed, match="table-of-contents/: status 500"):
        scrape_book(book, fetcher, archive)
    with pytest.raises(FetchFailed):
        observe_book(book, fetcher, archive)
    assert archive.data_version == scraped.data_version


def test_a_contents_page_without_chapters_keeps_the_corpus_and_says_so(
    book, fetcher, archive, scraped, book_site
):
    wall = page(b"<html><body><p>Please accept our cookies.</p></body></html>")
    book_site.fail("table-of-contents", wall, wall)
    report = scrape_book(book, fetcher, archive)
    assert not report.accepted
    assert report.data_version == archive.data_version == scraped.data_version
    assert "NOT ACCEPTED (contents_page), the last good corpus stays in use" in report.summary
    assert "mend select.links" in report.guards[0].message
    with pytest.raises(ContentsUnreadable):
        observe_book(book, fetcher, archive)
    assert scrape_book(book, fetcher, archive).accepted


@pytest.mark.parametrize("guard", HARMS)
def test_a_failed_guard_keeps_the_last_good_corpus(
    book, fetcher, archive, scraped, book_site, guard
):
    before = {path.name: path.read_bytes() for path in archive.folder.glob("*.*") if path.is_file()}
    HARMS[guard](book_site)
    observation = observe_book(book, fetcher, archive)
    report = scrape_book(book, fetcher, archive)
    assert guard in {result.name for result in report.guards if not result.passed}
    assert not report.accepted
    assert (
        report.data_version
        == scraped.data_version
        == archive.data_version
        != observation.data_version
    )
    assert guard in report.summary
    assert before == {
        path.name: path.read_bytes() for path in archive.folder.glob("*.*") if path.is_file()
    }
    assert observe_book(book, fetcher, archive).data_version == observation.data_version


def test_a_person_may_accept_what_a_guard_refuses(book, fetcher, archive, scraped, book_site):
    harms.lose_chapters(book_site)
    assert not scrape_book(book, fetcher, archive).accepted
    report = scrape_book(book, fetcher, archive, accept=["lost_chapters", "lost_text"])
    assert report.accepted
    assert set(report.waived) == {"lost_chapters", "lost_text"}
    assert [row.slug for row in archive.rows()] == [
        "on-the-ferry",
        "on-the-signal",
        "on-the-anchor",
    ]
    with pytest.raises(
        ValueError, match="no guard is named lost_pages; the guards are lost_chapters"
    ):
        scrape_book(book, fetcher, archive, accept=["lost_pages"])


def test_when_the_site_is_mended_the_book_goes_on(book, fetcher, archive, scraped, book_site):
    harms.captcha(book_site)
    assert not scrape_book(book, fetcher, archive).accepted
    book_site.faults.clear()
    report = scrape_book(book, fetcher, archive)
    assert report.accepted
    assert report.data_version == scraped.data_version


def test_robots_that_fail_keep_the_corpus(book, archive, scraped, book_site):
    book_site.faults["/robots.txt"] = [always(status(503))]
    with (
        Fetcher(QUICK) as fetcher,
        pytest.raises(FetchRefused, match=r"robots\.txt cannot be read"),
    ):
        scrape_book(book, fetcher, archive)
    assert archive.data_version == scraped.data_version


def test_new_selectors_take_effect_without_a_download(book, fetcher, archive, scraped, book_site):
    bylines = replace(book, drop=())
    observation = observe_book(bylines, fetcher, archive)
    assert observation.downloaded == 0
    assert observation.data_version != scraped.data_version
    report = scrape_book(bylines, fetcher, archive)
    assert report.switched
    assert report.data_version == observation.data_version


def test_two_archives_of_one_site_do_not_meet(book, fetcher, archive, scraped, tmp_path):
    other = ChapterArchive(tmp_path / "other")
    assert scrape_book(book, fetcher, other).data_version == scraped.data_version
