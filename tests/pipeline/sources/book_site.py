"""A book's site on the loopback: the real site's page structure, validators, robots.txt, and every
fault on demand."""

import gzip
import hashlib
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from devopsgpt_pipeline.sources.books import Book, load_book

LAST_MODIFIED = "Mon, 02 Nov 2026 08:00:00 GMT"
HTML = "text/html; charset=utf-8"

TOML = """
name = "{name}"
title = "The Local Book"
contents_url = "{url}"
licence = "MIT"
attribution = "written for this test"
{further}
[select]
links = "ol#drop-down a.menu-buttons"
content = ["#maia-main #content"]
drop = [".byline"]

[leave_out]
slugs = ["index", "colophon"]
"""


@dataclass
class Chapter:
    slug: str
    title: str
    inside: str


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    at: float
    status: int = 0


Fault = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Answers in the site's stead. Takes the handler and the page that would have been sent."""


@dataclass
class BookSite:
    """What the site serves. Change it while it runs."""

    name: str = "local-book"
    chapters: list[Chapter] = field(default_factory=list)
    deploy: str = "1111111"
    validators: bool = True
    crawl_delay_s: float | None = None
    """In the book's file."""
    robots: str | None = "User-agent: *\nDisallow: /local-book/secret/\n"
    pages: dict[str, bytes] = field(default_factory=dict)
    """Further pages by path."""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By path: one for each request, then the page again; see `always`."""
    log: list[Request] = field(default_factory=list)
    origin: str = ""

    @property
    def contents_url(self) -> str:
        return f"{self.origin}/{self.name}/table-of-contents/"

    def url(self, slug: str) -> str:
        return f"{self.origin}/{self.name}/{slug}/"

    def book(self, folder: Path) -> Book:
        path = folder / f"{self.name}.toml"
        further = "" if self.crawl_delay_s is None else f"crawl_delay_s = {self.crawl_delay_s}\n"
        path.write_text(TOML.format(name=self.name, url=self.contents_url, further=further))
        return load_book(path)

    def fail(self, slug: str, *faults: Fault) -> None:
        self.faults[f"/{self.name}/{slug}/"] = list(faults)

    def asked(self, slug: str) -> list[Request]:
        return [request for request in self.log if request.path == f"/{self.name}/{slug}/"]

    def statuses(self) -> list[int]:
        """Of the book's pages, robots.txt not among them."""
        return [request.status for request in self.log if request.path != "/robots.txt"]

    def chapter(self, slug: str) -> Chapter:
        return next(chapter for chapter in self.chapters if chapter.slug == slug)

    def page(self, path: str) -> bytes | None:
        if path in self.pages:
            return self.pages[path]
        if path == f"/{self.name}/table-of-contents/":
            return self._html(
                "Table of Contents",
                '<div class="col" id="content"><h1>Table of Contents</h1></div>',
            )
        for chapter in self.chapters:
            if path == f"/{self.name}/{chapter.slug}/":
                inside = f'<div class="content" id="content">\n{chapter.inside}\n</div>'
                return self._html(chapter.title, inside)
        return None

    def _html(self, title: str, content: str) -> bytes:
        items = "\n".join(
            f'<li><a href="/{self.name}/{chapter.slug}/" class="menu-buttons">\n'
            f"  {chapter.title}\n</a></li>"
            for chapter in self.chapters
        )
        return f"""<!DOCTYPE html>
<html><head><meta charset="utf-8"><link href="/s.css?cache={self.deploy}" rel="stylesheet">
<script src="/s.js?cache={self.deploy}"></script></head>
<body><h2 class="chapter-title">{title}</h2>
<ol id="drop-down"><li><a class="menu-buttons" href="/{self.name}/table-of-contents/">
Table of Contents</a></li>
{items}</ol>
<div id="maia-main" role="main">{content}</div>
<div class="footer">built as {self.deploy}</div></body></html>
""".encode()


def sentence(word: str, count: int) -> str:
    return " ".join(
        f"The {word} was seen {number} times and noted down in the book of the watch."
        for number in range(count)
    )


def small_site(chapters: int = 6) -> BookSite:
    """Six chapters of three paragraphs, and two entries that are left out."""
    site = BookSite()
    for number in range(1, chapters + 1):
        word = ("ferry", "lamp", "tide", "harbour", "signal", "anchor", "winch", "buoy")[number - 1]
        inside = (
            f'<h1 class="heading">On the {word}</h1>\n<p class="byline author">By Nobody</p>\n'
            + "\n".join(
                f"<p>{sentence(f'{word} {part}', 4)}</p>" for part in ("first", "second", "third")
            )
        )
        site.chapters.append(Chapter(f"on-the-{word}", f"{number}. On the {word}", inside))
    site.chapters.append(Chapter("index", "Index", "<p>ferry, 1</p>"))
    site.chapters.append(Chapter("colophon", "Colophon", "<p>Set in a type.</p>"))
    return site


class Server:
    """Serves a site until closed."""

    def __init__(self, site: BookSite) -> None:
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"site": site, "closing": self.closing})
        self.http = _Http(("127.0.0.1", 0), handler)
        site.origin = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(timeout=5)


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        # a connection that a fault closed
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    site: BookSite
    closing: threading.Event
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

    def do_GET(self) -> None:
        request = Request(self.path, dict(self.headers), time.monotonic())
        self.site.log.append(request)
        self.request_seen = request
        faults = self.site.faults.get(self.path, [])
        if faults:
            fault = faults[0] if getattr(faults[0], "always", False) else faults.pop(0)
            with suppress(ConnectionError):
                fault(self, self.site.page(self.path) or b"")
            return
        if self.path == "/robots.txt":
            robots = self.site.robots
            self.answer(
                404 if robots is None else 200,
                (robots or "").encode(),
                {"Content-Type": "text/plain"},
            )
            return
        body = self.site.page(self.path)
        if body is None:
            self.answer(404, b"<h1>Not here</h1>", {"Content-Type": HTML})
        elif self.site.validators and self._has(body):
            self.answer(304, b"", validators(body))
        else:
            self.answer(
                200,
                body,
                {"Content-Type": HTML} | (validators(body) if self.site.validators else {}),
            )

    def _has(self, body: bytes) -> bool:
        return self.headers.get("If-None-Match") == validators(body)["ETag"]

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.request_seen.status = status
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if not (status == 304 and name == "Content-Length"):
                self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def validators(body: bytes) -> dict[str, str]:
    return {"ETag": f'"{hashlib.sha256(body).hexdigest()[:12]}"', "Last-Modified": LAST_MODIFIED}


def always(fault: Fault) -> Fault:
    """The fault at every request instead of the first."""

    def repeated(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        fault(handler, body)

    repeated.always = True  # type: ignore[attr-defined]
    return repeated


def status(code: int, **headers: str) -> Fault:
    """An error page with a status; headers with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, body: handler.answer(
        code, b"<h1>Sorry</h1>", {"Content-Type": HTML} | named
    )


def page(body: bytes, content_type: str | None = HTML, **headers: str) -> Fault:
    """Status 200 with another body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    kind = {"Content-Type": content_type} if content_type else {}
    return lambda handler, _: handler.answer(200, body, kind | named)


def redirect(target: str, code: int = 301) -> Fault:
    return status(code, Location=target)


def hang(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Say nothing until the site closes."""
    handler.closing.wait(20)
    handler.close_connection = True


def drip(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """A byte every 20 ms, never long enough silent for a read timeout."""
    handler.send_response(200)
    handler.send_header("Content-Type", HTML)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.close_connection = True
    with suppress(ConnectionError):
        while not handler.closing.wait(0.02):
            handler.wfile.write(b"<" * 70_000)


def reset(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Half of the page, then the connection is reset."""
    handler.send_response(200)
    handler.send_header("Content-Type", HTML)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def content_length(factor: float) -> Fault:
    """The page, with a Content-Length that is wrong by a factor."""

    def fault(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.close_connection = True
        handler.answer(
            200, body, {"Content-Type": HTML, "Content-Length": str(int(len(body) * factor))}
        )

    return fault


def gzip_bomb(mebibytes: int) -> Fault:
    """A small answer that unpacks to many MiB of spaces."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(packer.compress(b" " * 2**20) for _ in range(mebibytes)) + packer.flush()
    return page(body, Content_Encoding="gzip")


def gzipped(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """The page itself, compressed."""
    handler.answer(200, gzip.compress(body), {"Content-Type": HTML, "Content-Encoding": "gzip"})
