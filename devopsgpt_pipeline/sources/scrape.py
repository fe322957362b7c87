"""Bring a book's archive up to date: visit, judge, then switch as a whole or leave the last good
corpus in use."""

import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from devopsgpt_pipeline.sources.archive import ArchivedPage, ChapterArchive
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.changes import Chapter, ChapterChange, as_markdown, compare
from devopsgpt_pipeline.sources.guards import GUARDS, Corpus, GuardResult, judge
from devopsgpt_pipeline.sources.pages.chapter import Content, read_content
from devopsgpt_pipeline.sources.pages.contents import ChapterLink, ContentsUnreadable, LeftOut
from devopsgpt_pipeline.sources.seen import SeenPage, SeenPages
from devopsgpt_pipeline.sources.visit import FailedChapter, ScrapeProgress, Visit, Visitor, silent
from devopsgpt_pipeline.sources.web.fetch import Fetcher

RESUME_WITHIN_S = 6 * 3600.0
"""A scrape that was cut off longer ago begins anew."""
CLOSED = re.compile(rb"</html\s*+>\Z", re.IGNORECASE)
TAIL_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class ScrapeReport:
    """What a scrape did. data_version, chapters and chars are of the corpus in use after it."""

    book: str
    accepted: bool
    """False: a guard failed, and the corpus in use is the one from before."""
    switched: bool
    """Whether the corpus in use is another than before."""
    data_version: str
    chapters: int
    chars: int
    guards: tuple[GuardResult, ...]
    waived: tuple[str, ...]
    """Guards that failed and that a person had accepted by name."""
    changes: tuple[ChapterChange, ...]
    failed: tuple[FailedChapter, ...]
    left_out: tuple[LeftOut, ...]
    requests: int
    downloaded: int
    not_modified: int
    reused: int
    seconds: float

    @property
    def summary(self) -> str:
        """One line for people."""
        kinds = [kind for row in self.changes for kind in row.change.split(", ")]
        names = ("added", "changed", "renamed", "moved", "removed", "unchanged")
        counts = [f"{kinds.count(name)} {name}" for name in names if name in kinds]
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        broken = [
            result.name
            for result in self.guards
            if not result.passed and result.name not in self.waived
        ]
        said = f"{self.book}: {', '.join(counts) or 'nothing to read'}"
        if not broken:
            return said
        said += f"; NOT ACCEPTED ({', '.join(broken)}), the last good corpus stays in use"
        if self.changes:  # somebody can look at them and agree
            said += f"; if the book is meant to be so, scrape it with accept: [{', '.join(broken)}]"
        return said

    @property
    def table(self) -> str:
        """The chapters as a Markdown table, with the reason where one failed."""
        return as_markdown(self.changes, {failure.slug: failure.reason for failure in self.failed})

    @property
    def diff(self) -> str:
        """The diff of every changed chapter, readable as Markdown."""
        return "\n\n".join(
            f"**{row.title}**\n\n```diff\n{row.diff}\n```" for row in self.changes if row.diff
        )


def scrape_book(
    book: Book,
    fetcher: Fetcher,
    archive: ChapterArchive,
    on_progress: ScrapeProgress = silent,
    *,
    accept: Collection[str] = (),
    reuse_seen_within_s: float = 0.0,
) -> ScrapeReport:
    """Fetch what changed, and make it the corpus in use if every guard passes.

    accept: names of guards whose failure a person has looked at and agrees to
    reuse_seen_within_s: pages that an observation asked for so recently, after the last scrape, are
    not asked for again; with accept, those of the last scrape neither
    raises: FetchError where the contents page does not come; DamagedArchive; ArchiveBusy;
    ValueError for an unknown guard
    """
    unknown = set(accept) - {guard.__name__ for guard in GUARDS}
    if unknown:
        names = ", ".join(guard.__name__ for guard in GUARDS)
        raise ValueError(f"no guard is named {', '.join(sorted(unknown))}; the guards are {names}")
    started, requests = time.monotonic(), fetcher.requests
    with archive.held():
        seen = SeenPages(archive.folder / "seen")
        fresh_since = _fresh_since(seen, reuse_seen_within_s, bool(accept))
        visitor = Visitor(book, fetcher, archive, seen, fresh_since, on_progress)
        before = _Reading(book, archive)
        try:
            visit = visitor.go()
        except ContentsUnreadable as error:
            seen.end({book.contents_url} | {row.url for row in before.rows})
            report = _nothing_read(book, archive, before, str(error))
        else:
            report = _judge_and_switch(book, archive, before, visit, accept)
            seen.end({book.contents_url} | {chapter.url for chapter in visit.contents.chapters})
    return replace(report, requests=fetcher.requests - requests, seconds=time.monotonic() - started)


def _fresh_since(seen: SeenPages, reuse_seen_within_s: float, accepting: bool) -> str:
    """Whoever scrapes again wants to know what the site says now; whoever accepts means what the
    last scrape saw."""
    reusable = (datetime.now(UTC) - timedelta(seconds=reuse_seen_within_s)).isoformat(
        timespec="microseconds"
    )
    if not accepting:
        reusable = max(reusable, seen.scraped_at)
    return min(seen.begin(RESUME_WITHIN_S), reusable)


class _Reading:
    """The corpus in use, read with the book's present selectors."""

    def __init__(self, book: Book, archive: ChapterArchive) -> None:
        self.rows = archive.rows()
        self.by_slug = {row.slug: row for row in self.rows}
        self.contents: dict[str, Content | None] = {}  # by page_sha256
        self.chapters = []
        for row in self.rows:
            body = archive.read(row)
            self.contents[row.page_sha256] = read_content(body, book, row.charset)
            self.chapters.append(
                Chapter(row.slug, row.title, self.contents[row.page_sha256], _closed(body))
            )


def _judge_and_switch(
    book: Book, archive: ChapterArchive, before: _Reading, visit: Visit, accept: Collection[str]
) -> ScrapeReport:
    candidate = _candidate(book, before, visit)
    guards = judge(Corpus(before.chapters, candidate.chapters, len(visit.contents.chapters)))
    failing = [result.name for result in guards if not result.passed]
    accepted = set(failing) <= set(accept)
    switched = accepted and (candidate.rows != before.rows or bool(candidate.pages))
    if switched:
        archive.switch(candidate.rows, candidate.pages)
    in_use = (
        [chapter for chapter in candidate.chapters if chapter.content]
        if accepted
        else before.chapters
    )
    return ScrapeReport(
        book=book.name,
        accepted=accepted,
        switched=switched,
        data_version=archive.data_version,
        chapters=len(in_use),
        chars=sum(chapter.chars for chapter in in_use),
        guards=tuple(guards),
        waived=tuple(failing) if accepted else (),
        changes=tuple(compare(before.chapters, candidate.chapters)),
        failed=tuple(visit.failed),
        left_out=visit.contents.left_out,
        requests=0,
        downloaded=visit.downloaded,
        not_modified=visit.not_modified,
        reused=visit.reused,
        seconds=0.0,
    )


@dataclass
class _Candidate:
    """The corpus that the site shows, and the pages of it that the archive does not have yet."""

    rows: list[ArchivedPage] = field(default_factory=list)
    chapters: list[Chapter] = field(default_factory=list)
    pages: dict[str, bytes] = field(default_factory=dict)


def _candidate(book: Book, before: _Reading, visit: Visit) -> _Candidate:
    """A chapter that failed stays as it is archived; one without content has no row, and a guard
    names it."""
    candidate = _Candidate()
    for link in visit.contents.chapters:
        old = before.by_slug.get(link.slug)
        if link.slug in visit.pages:
            _take(candidate, link, *visit.pages[link.slug], old, before, book)
        elif old is not None:
            _keep(candidate, link, old, before)
    return candidate


def _keep(candidate: _Candidate, link: ChapterLink, old: ArchivedPage, before: _Reading) -> None:
    chapter = before.chapters[before.rows.index(old)]
    candidate.chapters.append(replace(chapter, title=link.title))
    if chapter.content:
        sha256 = chapter.content.sha256
        candidate.rows.append(
            replace(old, order=link.order, title=link.title, content_sha256=sha256)
        )


def _take(
    candidate: _Candidate,
    link: ChapterLink,
    seen: SeenPage,
    body: bytes,
    old: ArchivedPage | None,
    before: _Reading,
    book: Book,
) -> None:
    known = seen.page_sha256 in before.contents
    content = before.contents[seen.page_sha256] if known else read_content(body, book, seen.charset)
    candidate.chapters.append(Chapter(link.slug, link.title, content, _closed(body)))
    if content is None:
        return
    same = old is not None and before.contents[old.page_sha256] == content
    candidate.rows.append(
        ArchivedPage(
            order=link.order,
            slug=link.slug,
            url=link.url,
            title=link.title,
            etag=seen.etag,
            last_modified=seen.last_modified,
            charset=seen.charset,
            page_sha256=seen.page_sha256,
            content_sha256=content.sha256,
            fetched_at=old.fetched_at
            if old is not None and old.page_sha256 == seen.page_sha256
            else seen.fetched_at,
            since=old.since if old is not None and same else seen.fetched_at,
        )
    )
    if old is None or old.page_sha256 != seen.page_sha256:
        candidate.pages[link.slug] = body


def _nothing_read(
    book: Book, archive: ChapterArchive, before: _Reading, reason: str
) -> ScrapeReport:
    return ScrapeReport(
        book=book.name,
        accepted=False,
        switched=False,
        data_version=archive.data_version,
        chapters=len(before.rows),
        chars=sum(chapter.chars for chapter in before.chapters),
        guards=(GuardResult("contents_page", False, reason, {"chapters": 0}),),
        waived=(),
        changes=(),
        failed=(),
        left_out=(),
        requests=0,
        downloaded=0,
        not_modified=0,
        reused=0,
        seconds=0.0,
    )


def _closed(body: bytes) -> bool:
    """Whether only comments stand after </html>."""
    tail = body[-TAIL_BYTES:].rstrip()
    while tail.endswith(b"-->") and (start := tail.rfind(b"<!--")) >= 0:
        tail = tail[:start].rstrip()
    return CLOSED.search(tail) is not None
