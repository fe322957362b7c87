"""Has a book changed? One conditional request per page, and a data version over what its chapters
say."""

import time
from dataclasses import dataclass

from devopsgpt_pipeline.sources.archive import ChapterArchive, corpus_version
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.pages.chapter import read_content
from devopsgpt_pipeline.sources.pages.contents import LeftOut
from devopsgpt_pipeline.sources.seen import SeenPages
from devopsgpt_pipeline.sources.visit import FailedChapter, ScrapeProgress, Visitor, silent
from devopsgpt_pipeline.sources.web.fetch import Fetcher

NO_CONTENT = "no content element"


@dataclass(frozen=True)
class Observation:
    """What a book's site shows now. data_version equals the archive's where the archive holds just
    that."""

    book: str
    data_version: str
    chapters: int
    failed: tuple[FailedChapter, ...]
    left_out: tuple[LeftOut, ...]
    requests: int
    downloaded: int
    not_modified: int
    seconds: float


def observe_book(
    book: Book, fetcher: Fetcher, archive: ChapterArchive, on_progress: ScrapeProgress = silent
) -> Observation:
    """Look at every page of a book, and change nothing but the pages seen.

    A chapter that does not answer counts as it was last seen.
    raises: FetchError where the contents page does not come; ContentsUnreadable; DamagedArchive;
    ArchiveBusy
    """
    started, requests = time.monotonic(), fetcher.requests
    with archive.held():
        seen = SeenPages(archive.folder / "seen")
        visit = Visitor(book, fetcher, archive, seen, None, on_progress).go()
        shown = []
        for chapter in visit.contents.chapters:
            page = visit.pages.get(chapter.slug) or seen.get(chapter.url)
            if page is not None:
                content = read_content(page[1], book, page[0].charset)
                shown.append(
                    (chapter.slug, chapter.title, content.sha256 if content else NO_CONTENT)
                )
    return Observation(
        book=book.name,
        data_version=corpus_version(shown),
        chapters=len(shown),
        failed=tuple(visit.failed),
        left_out=visit.contents.left_out,
        requests=fetcher.requests - requests,
        downloaded=visit.downloaded,
        not_modified=visit.not_modified,
        seconds=time.monotonic() - started,
    )
