"""The newest page seen at every address, accepted or not, with the validators that belong to it.

A conditional request must compare with what was last seen: a page that the observation has
downloaded is not downloaded again by the scrape, and the scrape takes it from here. Lies in
`<home>/chapters/<book>/seen/`. It is a
cache: without it, pages are asked for once more.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from devopsgpt_model.atomic import write_atomically
from devopsgpt_pipeline.sources.web.fetch import Page

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenPage:
    """One address. checked_at: when the site last said that this is its page, UTC, ISO 8601."""

    etag: str | None
    last_modified: str | None
    charset: str | None
    page_sha256: str
    fetched_at: str
    checked_at: str


class SeenPages:
    """The folder of one book."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, SeenPage] = {}
        self.unfinished_since: str | None = None
        """When a scrape began that did not come to its end."""
        self.scraped_at = ""
        """When the last scrape came to its end; before every time where there was none."""
        self._load()

    def get(self, url: str) -> tuple[SeenPage, bytes] | None:
        """The page last seen at an address; None where there is none, or where its file is
        damaged."""
        row = self._rows.get(url)
        if row is None:
            return None
        try:
            body = self._path(url).read_bytes()
        except FileNotFoundError:
            return None
        return (row, body) if hashlib.sha256(body).hexdigest() == row.page_sha256 else None

    def put(self, url: str, page: Page, checked_at: str | None = None) -> SeenPage:
        """Keep a page. checked_at: where it was not downloaded just now, when it was"""
        sha256 = hashlib.sha256(page.body).hexdigest()
        row = SeenPage(
            page.etag,
            page.last_modified,
            page.charset,
            sha256,
            page.fetched_at,
            checked_at or _now(),
        )
        write_atomically(self._path(url), page.body)
        self._set(url, row)
        return row

    def confirm(self, url: str) -> SeenPage:
        """Note that the site has just said 304 for it."""
        row = replace(self._rows[url], checked_at=_now())
        self._set(url, row)
        return row

    def begin(self, resume_within_s: float) -> str:
        """A scrape begins, or goes on where one was cut off less than resume_within_s ago.

        returns: since when a page that was checked counts as checked by this scrape, UTC, ISO 8601
        """
        oldest = (datetime.now(UTC) - timedelta(seconds=resume_within_s)).isoformat(
            timespec="microseconds"
        )
        if self.unfinished_since is None or self.unfinished_since < oldest:
            self.unfinished_since = _now()
            self._save()
        return self.unfinished_since

    def end(self, urls: set[str]) -> None:
        """A scrape has come to its end; pages of other addresses than these are forgotten."""
        self.unfinished_since, self.scraped_at = None, _now()
        for url in self._rows.keys() - urls:
            self._path(url).unlink(missing_ok=True)
            del self._rows[url]
        self._save()

    def _set(self, url: str, row: SeenPage) -> None:
        self._rows[url] = row
        self._save()

    def _path(self, url: str) -> Path:
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.html"

    def _load(self) -> None:
        path = self.folder / "index.json"
        if not path.exists():
            return
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            self._rows = {url: SeenPage(**row) for url, row in table["pages"].items()}
            self.unfinished_since, self.scraped_at = (
                table["unfinished_since"],
                table.get("scraped_at", ""),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s cannot be read (%s); its pages will be asked for again", path, error)

    def _save(self) -> None:
        pages = {url: asdict(row) for url, row in self._rows.items()}
        table = {
            "unfinished_since": self.unfinished_since,
            "scraped_at": self.scraped_at,
            "pages": pages,
        }
        write_atomically(self.folder / "index.json", json.dumps(table, indent=1).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
