"""The embedded library behaves as a site, and its books have what they promise."""

import re

import pytest
import requests

from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.books import books_of_profile
from devopsgpt_pipeline.sources.observe import observe_book
from devopsgpt_pipeline.sources.sample_site.pages import PACKAGED, read_sample_book
from devopsgpt_pipeline.sources.sample_site.transport import SampleSite
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.sources.web.answers import FetchFailed, FetchRefused
from devopsgpt_pipeline.sources.web.fetch import Fetcher
from devopsgpt_pipeline.text.corpus import clean_book, read_texts

CONTENTS = "sample://library/night-shift/table-of-contents/"


@pytest.fixture
def session():
    with requests.Session() as session:
        session.mount("sample://", SampleSite())
        yield session


def test_pages_have_validators_and_answer_304(session):
    page = session.get(CONTENTS)
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    tag, date = page.headers["ETag"], page.headers["Last-Modified"]
    assert session.get(CONTENTS, headers={"If-None-Match": tag}).status_code == 304
    assert session.get(CONTENTS, headers={"If-None-Match": f'"x", {tag}'}).status_code == 304
    assert session.get(CONTENTS, headers={"If-Modified-Since": date}).status_code == 304
    assert (
        session.get(
            CONTENTS, headers={"If-None-Match": '"x"', "If-Modified-Since": date}
        ).status_code
        == 200
    )
    for wrong in ("Mon, 01 Jan 2001 00:00:00 GMT", "never"):
        assert session.get(CONTENTS, headers={"If-Modified-Since": wrong}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "library/",
        "library/night-shift/",
        "library/night-shift/nothing/",
        "library/none/preface/",
        "other/robots.txt",
    ],
)
def test_what_is_not_there_is_404(session, path):
    assert session.get(f"sample://{path}").status_code == 404


def test_other_methods_are_refused(session):
    assert session.post(CONTENTS).status_code == 405
    assert session.head(CONTENTS).text == ""


def test_the_library_has_robots_that_the_fetcher_honours():
    with Fetcher() as fetcher:
        assert fetcher.delay_for(CONTENTS) == 0.05
        with pytest.raises(FetchRefused, match=r"robots\.txt forbids"):
            fetcher.get("sample://library/drafts/")
        with pytest.raises(FetchFailed, match="404"):
            fetcher.get("sample://library/night-shift/nothing/")


def test_pages_have_the_real_sites_structure(session):
    page = session.get("sample://library/night-shift/preface/").text
    for part in (
        '<ol id="drop-down"',
        'class="menu-buttons" href="/night-shift/table-of-contents/"',
        '<li class="active">',
        '<div id="maia-main">',
        '<div class="content" id="content">',
        '<div class="footer">',
        "?cache=",
        '<h2 class="chapter-title">',
        "application/ld+json",
    ):
        assert part in page
    assert (
        'id="maia-main" role="main"' in session.get("sample://library/steady-service/preface/").text
    )


def test_every_page_of_the_library_is_listed_and_every_entry_has_its_page():
    for folder in PACKAGED.iterdir():
        slugs = [entry.slug for entry in read_sample_book(folder).entries]
        assert len(set(slugs)) == len(slugs)
        assert set(slugs) == {path.stem for path in folder.glob("*.html")}


def test_a_faulty_description_is_a_readable_error(tmp_path):
    (tmp_path / "book.toml").write_text('title = "x"\n')
    with pytest.raises(ValueError, match="does not describe a sample book"):
        read_sample_book(tmp_path)


def test_the_library_is_large_enough_and_has_the_whole_zoo_of_markup():
    markup = "".join(path.read_text() for path in PACKAGED.rglob("*.html"))
    for part in (
        "<aside",
        "<pre",
        "<table",
        "<figure",
        "<dl",
        "<ol",
        'data-type="footnote"',
        "<blockquote",
        "<br",
        "“",
    ):
        assert part in markup


def test_the_library_goes_from_site_to_text_and_then_is_quiet(tmp_path):
    chapters = characters = 0
    for book in books_of_profile("sample"):
        archive = ChapterArchive(tmp_path / "chapters" / book.name)
        with Fetcher(pace_folder=tmp_path / "pace") as fetcher:
            report = scrape_book(book, fetcher, archive)
            assert report.accepted
            assert report.failed == ()
            assert "Index" in [left.title for left in report.left_out]
            again = observe_book(book, fetcher, archive)
        assert again.data_version == report.data_version
        assert again.downloaded == 0
        text = clean_book(archive.folder, tmp_path / "text" / book.name, book)
        chapters += len(text.chapters)
        characters += text.chars
        for row, words in read_texts(tmp_path / "text" / book.name):
            assert words.startswith(row.title + "\n\n")
            assert not re.search("[\u00ad\u200b\u00a0\u2009‘’“”]|&[a-z]+;|<[a-z/]", words), row.slug
    assert chapters >= 24
    assert characters >= 120_000
