"""What a person sees of earlier versions: `devopsgpt history`."""

import re
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.sources.scrape import scrape_book


@pytest.fixture
def history(book_site, fetcher, tmp_path):
    """The command, over a book that was scraped, edited and scraped again."""
    from devopsgpt_pipeline.sources.archive import ChapterArchive

    folder = tmp_path / "books"
    folder.mkdir()
    book = book_site.book(folder)
    archive = ChapterArchive(tmp_path / "home" / "chapters" / book.name)
    assert scrape_book(book, fetcher, archive).accepted
    manifest = archive.folder / "manifest.json"
    manifest.write_text(
        re.sub(r'"since": ".*?"', '"since": "2026-11-02T04:17:00+00:00"', manifest.read_text())
    )
    edited = book_site.chapter("on-the-lamp")
    edited.inside = edited.inside.replace("The lamp first was seen 0 times", "Nobody saw the lamp")
    assert scrape_book(book, fetcher, archive).accepted
    environment = {"DEVOPSGPT_HOME": str(tmp_path / "home"), "DEVOPSGPT_BOOKS": str(folder)}

    def invoke(*arguments):
        return CliRunner().invoke(main, ["history", *arguments], env=environment)

    return invoke


def test_history_lists_what_is_kept(history):
    was, now = [
        line
        for line in history("local-book", "on-the-lamp").output.splitlines()
        if "on-the-lamp" in line
    ]
    assert "2026-11-02" in was
    assert "in use" not in was
    assert "in use" in now
    assert "2026-11-02T04:17:00" in was  # whole, in 80 columns: it is what --at takes
    assert sum("on-the-" in line for line in history("local-book").output.splitlines()) == 7


def test_history_prints_a_chapter_as_it_was(history):
    was = history("local-book", "on-the-lamp", "--at", "2026-11-03").output
    now = history(
        "local-book", "on-the-lamp", "--at", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    ).output
    assert was.startswith("On the lamp\n\nThe lamp first was seen 0 times")
    assert now.startswith("On the lamp\n\nNobody saw the lamp")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("lost-book",),
            "unknown book 'lost-book'; the books are night-shift, steady-service, local-book",
        ),
        (
            ("local-book", "on-the-moon"),
            "local-book has no chapter 'on-the-moon'; its chapters are on-the-ferry, on",
        ),
        (
            ("local-book", "on-the-lamp", "--at", "2026-11-01"),
            "no version of 'on-the-lamp' in use at 2026-11-01",
        ),
        (("local-book", "--at", "2026-11-01"), "--at needs a CHAPTER"),
    ],
)
def test_history_says_what_it_does_not_have(history, arguments, message):
    answer = history(*arguments)
    assert answer.exit_code > 0
    assert message in answer.output
