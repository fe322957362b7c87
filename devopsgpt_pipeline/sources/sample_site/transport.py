"""The embedded library as a site: a transport for requests that answers sample:// addresses.

A session with this adapter meets what the web shows it: robots.txt, ETag, Last-Modified, 304, 404.
The code above is the web's.
"""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

from devopsgpt_pipeline.sources.sample_site.pages import (
    CONTENTS,
    DEPLOY,
    PACKAGED,
    SampleBook,
    chapter_page,
    contents_page,
    etag_of,
    read_sample_book,
)

HOST = "library"
CRAWL_DELAY_S = 0.05
ROBOTS = f"User-agent: *\nCrawl-delay: {CRAWL_DELAY_S}\nDisallow: /drafts/\n"


class SampleSite(BaseAdapter):
    """Mount it at sample://. library: a folder of sample books; deploy: the build that the pages'
    links name."""

    def __init__(self, library: Path = PACKAGED, deploy: str = DEPLOY) -> None:
        super().__init__()
        self.library, self.deploy = library, deploy

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        """The answer to one request: 200, 304, 404, or 405 for anything but GET and HEAD."""
        if request.method not in ("GET", "HEAD"):
            return _response(request, 405, "", {"Content-Type": "text/plain"})
        address = urlsplit(request.url or "")
        if address.hostname == HOST and address.path == "/robots.txt":
            return _response(request, 200, ROBOTS, {"Content-Type": "text/plain; charset=utf-8"})
        found = self._page(address.path) if address.hostname == HOST else None
        if found is None:
            return _response(
                request, 404, "<h1>Not found</h1>", {"Content-Type": "text/html; charset=utf-8"}
            )
        page, book = found
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "ETag": etag_of(page),
            "Last-Modified": book.last_modified,
        }
        if _unchanged(request.headers, headers):
            return _response(request, 304, "", headers)
        return _response(request, 200, page, headers)

    def close(self) -> None:
        """Nothing is held open."""

    def _page(self, path: str) -> tuple[str, SampleBook] | None:
        parts = [part for part in path.split("/") if part]
        names = {folder.parent.name for folder in self.library.glob("*/book.toml")}
        if len(parts) != 2 or parts[0] not in names:
            return None
        book = read_sample_book(self.library / parts[0])
        if parts[1] == CONTENTS:
            return contents_page(book, self.deploy), book
        try:
            return chapter_page(book, parts[1], self.deploy), book
        except KeyError:
            return None


def _unchanged(asked: Mapping[str, str], have: Mapping[str, str]) -> bool:
    """A tag decides where one is sent; the date only without it (RFC 9110, section 13.2.2)."""
    if "If-None-Match" in asked:
        return have["ETag"] in [tag.strip() for tag in asked["If-None-Match"].split(",")]
    if "If-Modified-Since" in asked:
        try:
            return parsedate_to_datetime(have["Last-Modified"]) <= parsedate_to_datetime(
                asked["If-Modified-Since"]
            )
        except (TypeError, ValueError):
            return False
    return False


def _response(
    request: PreparedRequest, status: int, text: str, headers: Mapping[str, str]
) -> Response:
    body = text.encode() if request.method == "GET" else b""
    response = Response()
    response.status_code = status
    response.url = request.url or ""
    response.request = request
    response.headers.update(headers)
    if status != 304:
        response.headers["Content-Length"] = str(len(text.encode()))
    response.raw = BytesIO(body)
    return response
