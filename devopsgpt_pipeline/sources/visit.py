"""One round through a book's pages: the contents page, then every chapter, each by one conditional
request.

The observation and the scrape both make it. What the site sends lands among the seen pages; the
corpus in use is not touched here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from devopsgpt_pipeline.sources.archive import ArchivedPage, ChapterArchive
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.pages.contents import ChapterLink, Contents, read_contents
from devopsgpt_pipeline.sources.seen import SeenPage, SeenPages
from devopsgpt_pipeline.sources.web.answers import FetchError
from devopsgpt_pipeline.sources.web.fetch import Fetcher, NotModified, Page

ScrapeProgress = Callable[[int, int, str], None]
"""Called with pages done, pages in all, and a line for people."""


def silent(done: int, total: int, line: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class FailedChapter:
    """A chapter whose page did not come, and why."""

    slug: str
    title: str
    url: str
    reason: str


@dataclass
class Visit:
    """What a round found. pages: slug -> the page as last seen, for every chapter that the site
    answered for."""

    contents: Contents
    pages: dict[str, tuple[SeenPage, bytes]] = field(default_factory=dict)
    failed: list[FailedChapter] = field(default_factory=list)
    downloaded: int = 0
    not_modified: int = 0
    reused: int = 0
    """Pages that an interrupted scrape, or a recent observation, had already asked for."""


class Visitor:
    """Goes round a book. fresh_since: pages checked since then are not asked for again; None asks
    for all."""

    def __init__(
        self,
        book: Book,
        fetcher: Fetcher,
        archive: ChapterArchive,
        seen: SeenPages,
        fresh_since: str | None,
        on_progress: ScrapeProgress,
    ) -> None:
        self.book, self.fetcher, self.archive, self.seen = book, fetcher, archive, seen
        self.fresh_since, self.on_progress = fresh_since, on_progress
        self.archived = {row.url: row for row in archive.rows()}
        self.outcomes = {"downloaded": 0, "not modified": 0, "seen just before": 0}

    def go(self) -> Visit:
        """The whole round; a chapter that fails, fails alone.

        raises: FetchError where the contents page does not come; ContentsUnreadable; Undecodable
        """
        row, body, _ = self._page(self.book.contents_url)
        visit = Visit(read_contents(body, self.book, row.charset))
        chapters = visit.contents.chapters
        delay_s = self.fetcher.delay_for(self.book.contents_url, self.book.crawl_delay_s)
        least_s = len(chapters) * delay_s
        self.on_progress(
            0,
            len(chapters),
            f"{self.book.title}: {len(chapters)} chapters, at least {least_s:.0f} s at {delay_s:g} "
            "s between requests",
        )
        for done, chapter in enumerate(chapters, 1):
            outcome = self._visit(chapter, visit)
            self.on_progress(done, len(chapters), f"{chapter.slug}: {outcome}")
        visit.downloaded, visit.not_modified, visit.reused = self.outcomes.values()
        return visit

    def _visit(self, chapter: ChapterLink, visit: Visit) -> str:
        try:
            row, body, outcome = self._page(chapter.url)
        except FetchError as error:
            visit.failed.append(
                FailedChapter(chapter.slug, chapter.title, chapter.url, error.reason)
            )
            return f"failed, {error.reason}"
        visit.pages[chapter.slug] = (row, body)
        return outcome

    def _page(self, url: str) -> tuple[SeenPage, bytes, str]:
        known = self.seen.get(url) or self._from_archive(url)
        if known and self.fresh_since is not None and known[0].checked_at >= self.fresh_since:
            return *known, self._count("seen just before")
        etag, last_modified = (known[0].etag, known[0].last_modified) if known else (None, None)
        answer = self.fetcher.get(url, etag, last_modified, delay_s=self.book.crawl_delay_s)
        if isinstance(answer, NotModified):
            if known is None:  # the fetcher answers so only where validators were sent
                raise RuntimeError(f"{url}: not modified, and no page was known")
            return self.seen.confirm(url), known[1], self._count("not modified")
        return self.seen.put(url, answer), answer.body, self._count("downloaded")

    def _count(self, outcome: str) -> str:
        self.outcomes[outcome] += 1
        return outcome

    def _from_archive(self, url: str) -> tuple[SeenPage, bytes] | None:
        """Without a seen page, the one in use is what the site is asked about."""
        row: ArchivedPage | None = self.archived.get(url)
        if row is None:
            return None
        body = self.archive.read(row)
        page = Page(url, body, row.charset, row.etag, row.last_modified, row.fetched_at)
        return self.seen.put(url, page, checked_at=row.fetched_at), body
