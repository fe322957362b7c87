"""The guards as Dagster shows them: blocking checks on a book's chapters, each passing and failing
on a real site."""

import dagster as dg
import pytest

from devopsgpt_pipeline.defs.resources import HomeResource, WebResource
from devopsgpt_pipeline.defs.sources import build_book_site, build_chapters
from devopsgpt_pipeline.home import Home
from pipeline.sources.book_site import always, page, status
from pipeline.sources.harms import HARMS, move_away, shrink


class Scraped:
    """A book's two source assets over a local site, on a Dagster instance of their own."""

    def __init__(self, book, home, instance):
        self.home, self.instance = home, instance
        self.definitions = dg.Definitions(
            [build_book_site(book), build_chapters(book)],
            resources={"home": HomeResource(path=str(home.path)), "web": WebResource()},
        )
        self.archive = home.chapters / book.name

    def scrape(self, *accept):
        """Names of the checks that failed; the run fails with them, so that nothing after it
        runs."""
        result = self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey("chapters_local_book")],
            run_config={"ops": {"chapters_local_book": {"config": {"accept": list(accept)}}}},
            raise_on_error=False,
        )
        (made,) = result.get_asset_materialization_events()
        self.metadata = made.materialization.metadata
        self.data_version = made.materialization.tags["dagster/data_version"]
        checks = result.get_asset_check_evaluations()
        assert len(checks) == 8
        failed = {check.check_name for check in checks if not check.passed}
        assert result.success == (not failed)
        return failed

    @property
    def pages(self):
        return {path.name: path.read_bytes() for path in self.archive.glob("*.html")}


@pytest.fixture
def scraped(book_site, tmp_path):
    book_site.crawl_delay_s = 0.0  # nobody is disturbed here
    book = book_site.book(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Scraped(book, Home(tmp_path / "home").prepare(), instance)
        assert made.scrape() == set()
        yield made


GUARDED = HARMS | {"contents_page": move_away}


@pytest.mark.parametrize("guard", GUARDED)
def test_a_failed_guard_is_a_failed_check_and_keeps_the_last_good_corpus(scraped, book_site, guard):
    pages, version = scraped.pages, scraped.data_version
    GUARDED[guard](book_site)
    failed = scraped.scrape()
    assert guard in failed
    assert (scraped.pages, scraped.data_version) == (pages, version)
    assert "the last good corpus stays in use" in scraped.metadata["summary"].value


def test_a_person_accepts_a_guards_failure_by_its_name(scraped, book_site):
    before = scraped.data_version
    shrink(book_site)
    assert scraped.scrape() == {"shrunken_chapters"}
    assert "scrape it with accept: [shrunken_chapters]" in scraped.metadata["summary"].value
    assert scraped.scrape("shrunken_chapters") == set()
    assert scraped.data_version != before


def test_a_chapter_that_fails_fails_alone_and_is_named(scraped, book_site):
    book_site.fail("on-the-tide", always(status(500)))
    book_site.chapter("on-the-lamp").inside += "<p>A sentence more.</p>"
    before = scraped.pages
    assert scraped.scrape() == set()
    assert scraped.pages["on-the-tide.html"] == before["on-the-tide.html"]
    assert scraped.pages["on-the-lamp.html"] != before["on-the-lamp.html"]
    (failed,) = scraped.metadata["failed"].value
    assert failed.startswith("on-the-tide: ")
    assert "500" in failed


def test_a_captcha_with_status_200_changes_nothing(scraped, book_site):
    captcha = always(page(b"<html><body><form>Are you human?</form></body></html>"))
    for chapter in book_site.chapters:
        book_site.fail(chapter.slug, captcha)
    version = scraped.data_version
    assert "missing_content" in scraped.scrape()
    assert scraped.data_version == version
