"""Earlier versions of a book's chapters, for people: which there are, and what one said on a
day."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from devopsgpt_pipeline.sources.archive import ArchivedPage, ChapterArchive, EarlierPage
from devopsgpt_pipeline.sources.books import Book, BookError
from devopsgpt_pipeline.text.page_to_text import extract_chapter


def book_named(name: str, books: Sequence[Book]) -> Book:
    """raises: BookError for a name that none of the books has, with theirs"""
    for book in books:
        if book.name == name:
            return book
    raise BookError(
        f"unknown book {name!r}; the books are {', '.join(book.name for book in books)}"
    )


def versions(chapters: Path, book: Book, slug: str | None = None) -> list[dict[str, str]]:
    """Every version that is kept, of one chapter or of all, in reading order and oldest first.

    chapters: the folder of all archives
    raises: BookError for a chapter that the book never had; DamagedArchive
    """
    archive = ChapterArchive(chapters / book.name)
    with archive.held():
        in_use = archive.rows()
        pages: list[ArchivedPage | EarlierPage] = [*archive.history(), *in_use]
    order = {row.slug: row.order for row in in_use}
    chosen = [page for page in pages if slug in (None, page.slug)]
    if not chosen:
        known = ", ".join(order) or "none: scrape the book first"
        raise BookError(f"{book.name} has no chapter {slug!r}; its chapters are {known}")
    chosen.sort(key=lambda page: (order.get(page.slug, len(order) + 1), page.slug, page.since))
    return [
        {
            "chapter": page.slug,
            "from": _time(page.since),
            "until": "in use" if isinstance(page, ArchivedPage) else _time(page.until),
        }
        for page in chosen
    ]


def _time(stamp: str) -> str:
    """UTC to the second, as --at takes it; short enough for a terminal of 80 columns."""
    return f"{datetime.fromisoformat(stamp):%Y-%m-%dT%H:%M:%S}"


def text_at(chapters: Path, book: Book, slug: str, when: datetime) -> str:
    """A chapter's clean text as it was in use at a time. raises: NoSuchVersion, EmptyChapter,
    UncleanText"""
    archive = ChapterArchive(chapters / book.name)
    with archive.held():
        page = archive.version_at(slug, when)
        body = archive.read(page)
    return extract_chapter(body, book, page.title, page.charset).whole
