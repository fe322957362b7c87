"""The chapters on disk: every page as served, the manifest that names them, and their earlier
versions.

`<home>/chapters/<book>/`: `<slug>.html`, `manifest.json`, `history/<slug>/`, `history.json`. Stands
between the web and the text. The corpus in use changes only as a whole, by `switch`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from devopsgpt_model.atomic import finish_switch, switch_files

MANIFEST, HISTORY = "manifest.json", "history.json"
HISTORY_DAYS = 365
MAX_WAIT_S = 900.0


class DamagedArchive(ValueError):
    """An archive whose manifest or pages do not fit together."""


class NoSuchVersion(ValueError):
    """A chapter at a time for which nothing is kept."""


class ArchiveBusy(RuntimeError):
    """Another process observes or scrapes the same book."""


@dataclass(frozen=True)
class ArchivedPage:
    """One chapter of the corpus in use: a row of the manifest.

    order counts from 1; fetched_at: when these bytes came, since: when this content came; both UTC,
    ISO 8601
    """

    order: int
    slug: str
    url: str
    title: str
    etag: str | None
    last_modified: str | None
    charset: str | None
    page_sha256: str
    content_sha256: str
    fetched_at: str
    since: str


@dataclass(frozen=True)
class EarlierPage:
    """One version of a chapter that is no longer in use. since and until: UTC, ISO 8601."""

    slug: str
    title: str
    since: str
    until: str
    charset: str | None
    content_sha256: str
    file: str


def corpus_version(chapters: list[tuple[str, str, str]]) -> str:
    """The data version of chapters (slug, title, content_sha256) in this order."""
    return hashlib.sha256(json.dumps(chapters, ensure_ascii=False).encode()).hexdigest()


class ChapterArchive:
    """One book's folder. history_days: how long an earlier version stays retrievable."""

    def __init__(self, folder: Path, history_days: int = HISTORY_DAYS) -> None:
        self.folder, self.history_days = folder, history_days

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the archive against other processes, a switch that was cut off brought to its end.

        Readers hold it too: what they see is one corpus.
        raises: ArchiveBusy after 15 minutes
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=MAX_WAIT_S)
        try:
            lock.acquire()
        except Timeout as error:
            raise ArchiveBusy(
                f"{self.folder} is held by another process for over {MAX_WAIT_S:.0f} s; let it "
                "end, or end it"
            ) from error
        try:
            finish_switch(self.folder, MANIFEST)
            yield
        finally:
            lock.release()

    def rows(self) -> list[ArchivedPage]:
        """The corpus in use, in reading order; [] before the first scrape. raises:
        DamagedArchive"""
        return [ArchivedPage(**row) for row in self._table(MANIFEST, ArchivedPage)]

    def read(self, row: ArchivedPage | EarlierPage) -> bytes:
        """A chapter's page as served. raises: DamagedArchive where it is gone, or not the one that
        is in use"""
        path = self.folder / (row.file if isinstance(row, EarlierPage) else f"{row.slug}.html")
        try:
            body = path.read_bytes()
        except FileNotFoundError as error:
            raise self._damaged(path, "is in the manifest and not on disk") from error
        if isinstance(row, ArchivedPage) and hashlib.sha256(body).hexdigest() != row.page_sha256:
            raise self._damaged(path, "is not the page that the manifest tells of")
        return body

    @property
    def data_version(self) -> str:
        """Of the corpus in use, over its chapters' content, titles and order."""
        return corpus_version([(row.slug, row.title, row.content_sha256) for row in self.rows()])

    def switch(
        self, rows: list[ArchivedPage], pages: Mapping[str, bytes], now: datetime | None = None
    ) -> None:
        """Make rows the corpus in use. pages: slug -> page, for those that are new or changed.

        What they replace goes into the history; versions older than history_days leave it.
        """
        now = now or datetime.now(UTC)
        before = {row.slug: row for row in self.rows()}
        after = {row.slug: row for row in rows}
        replaced = [row for slug, row in before.items() if slug in pages or slug not in after]
        kept, files = self._history_after(before, replaced, after, now)
        files |= {f"{slug}.html": body for slug, body in pages.items()}
        files[HISTORY] = _json({"earlier": [asdict(page) for page in kept]})
        files[MANIFEST] = _json({"chapters": [asdict(row) for row in rows]})
        removed = [f"{slug}.html" for slug in before if slug not in after]
        removed += [page.file for page in self.history() if page not in kept]
        switch_files(self.folder, files, removed, last=MANIFEST)

    def _history_after(
        self,
        before: dict[str, ArchivedPage],
        replaced: list[ArchivedPage],
        after: dict[str, ArchivedPage],
        now: datetime,
    ) -> tuple[list[EarlierPage], dict[str, bytes]]:
        until = now.astimezone(UTC).isoformat(timespec="seconds")
        oldest = now - timedelta(days=self.history_days)
        kept = [page for page in self.history() if datetime.fromisoformat(page.until) >= oldest]
        files = {}
        for row in replaced:
            new = after.get(row.slug)
            if new is not None and new.content_sha256 == row.content_sha256:
                continue  # the page's bytes changed and the chapter did not: no version of its own
            stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            file = f"history/{row.slug}/{stamp}.html"
            kept.append(
                EarlierPage(
                    row.slug, row.title, row.since, until, row.charset, row.content_sha256, file
                )
            )
            files[file] = self.read(row)
        return kept, files

    def history(self, slug: str | None = None) -> list[EarlierPage]:
        """Earlier versions, oldest first, of one chapter or of all. raises: DamagedArchive"""
        pages = [EarlierPage(**row) for row in self._table(HISTORY, EarlierPage)]
        return [page for page in pages if slug in (None, page.slug)]

    def version_at(self, slug: str, when: datetime) -> ArchivedPage | EarlierPage:
        """The version of a chapter that was in use at a time (with a time zone), for `read`.

        raises: NoSuchVersion where the book had no such chapter then, or the version is older than
        the retention
        """
        in_use = (row for row in self.rows() if row.slug == slug)
        pages: list[ArchivedPage | EarlierPage] = [*self.history(slug), *in_use]
        for page in pages:
            until = datetime.fromisoformat(page.until) if isinstance(page, EarlierPage) else None
            if datetime.fromisoformat(page.since) <= when and (until is None or when < until):
                return page
        raise NoSuchVersion(
            f"no version of {slug!r} in use at {when:%Y-%m-%dT%H:%M:%S%z} is kept in {self.folder}"
        )

    def _table(self, name: str, kind: type) -> list[dict[str, Any]]:
        path = self.folder / name
        if not path.exists():
            return []
        try:
            (rows,) = json.loads(path.read_text(encoding="utf-8")).values()
            expected = {field.name for field in fields(kind)}
            if not all(set(row) == expected for row in rows):
                raise ValueError(f"a row must have {', '.join(sorted(expected))}")
        except (ValueError, TypeError, AttributeError) as error:
            raise self._damaged(path, f"cannot be read ({error})") from error
        return list(rows)

    def _damaged(self, path: Path, what: str) -> DamagedArchive:
        return DamagedArchive(
            f"{path} {what}; move {self.folder} away, and the next scrape builds it anew (its "
            "history excepted)"
        )


def _json(table: dict[str, Any]) -> bytes:
    return (json.dumps(table, indent=1, ensure_ascii=False) + "\n").encode()
