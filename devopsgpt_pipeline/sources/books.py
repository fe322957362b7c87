"""A book is configuration: where its contents page is, what on its pages is the text, what to leave
out.

The first room of the flow. Shipped books lie in books/, one TOML file each; a folder of further
files adds books without code. Knows no network and no page.
"""

import re
import tomllib
import unicodedata
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import re2

from devopsgpt_pipeline.sources.addresses import split_address
from devopsgpt_pipeline.sources.css import read_selector

SHIPPED = Path(__file__).parent / "books"
SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
SCHEMES = ("https", "http", "sample")
MAX_HOST_CHARS = 253  # RFC 1035

NOTES = ('[data-type="footnote"]', '[role="doc-footnote"]')
NOTE_MARKERS = (
    'a[data-type="noteref"]',
    'a[role="doc-noteref"]',
    'a[role="doc-backlink"]',
    'a[href$="-marker"]',
    "a.footnote-ref",
    "a.footnote-back",
    "a.footnote-backref",
)


class BookError(ValueError):
    """A book's TOML file that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Book:
    """One book, as its TOML file describes it. Selectors are CSS."""

    name: str
    """Slug: the partition's key, and the folder's name under chapters/ and text/."""
    title: str
    contents_url: str
    licence: str
    attribution: str
    profile: str = ""
    """The profile that reads the book; empty for a book of one's own."""
    links: str
    """Selects the links to chapters on the contents page, in reading order."""
    content: tuple[str, ...]
    """The first of these that matches a page selects the chapter's text."""
    drop: tuple[str, ...] = ()
    """What to remove inside the content, such as bylines."""
    notes: tuple[str, ...] = NOTES
    note_markers: tuple[str, ...] = NOTE_MARKERS
    """Links between a text and its notes, in both directions; their labels are not text."""
    leave_out_slugs: tuple[str, ...] = ()
    """Regular expressions of RE2; a chapter whose whole slug matches is not read."""
    leave_out_titles: tuple[str, ...] = ()
    """The same, in any case; a chapter whose title holds a match is not read."""
    crawl_delay_s: float | None = None
    """Least seconds between requests, instead of the fetcher's; robots.txt may ask for more."""
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not SLUG.fullmatch(self.name):
            raise BookError(
                f"name must be lower-case letters, digits, - and _ (at most 64), got {self.name!r}"
            )
        self._check_texts()
        address = split_address(self.contents_url)
        if address.scheme not in SCHEMES or not _is_host(address.hostname):
            raise BookError(f"contents_url must be an https address, got {self.contents_url!r}")
        if self.crawl_delay_s is not None and not 0 <= self.crawl_delay_s <= 3600:
            raise BookError(f"crawl_delay_s must be 0..3600, got {self.crawl_delay_s}")
        if not self.content:
            raise BookError("select.content must name at least one selector, got none")
        for selector in (self.links, *self.content, *self.drop, *self.notes, *self.note_markers):
            read_selector(selector)
        for pattern in (*self.leave_out_slugs, *self.leave_out_titles):
            read_pattern(pattern)

    def _check_texts(self) -> None:
        for row in fields(self):
            value = getattr(self, row.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    _check_text(row.name, text)


def _check_text(name: str, text: str) -> None:
    if name in REQUIRED and not text.strip():
        raise BookError(f"{name} must not be empty, got {text!r}")
    lines = "\n\t" if name in ("licence", "attribution") else ""
    if any(unicodedata.category(each) == "Cc" and each not in lines for each in text):
        raise BookError(f"{name} must have no control characters, got {text!r}")


def _is_host(name: str | None) -> bool:
    try:
        return bool(name) and len(str(name).encode("idna")) <= MAX_HOST_CHARS
    except UnicodeError:  # an empty part, or one above 63 characters
        return False


def read_pattern(pattern: str, any_case: bool = False) -> Any:
    """A regular expression of the book's, compiled by RE2: a pattern that takes exponential time
    elsewhere takes linear time there.

    raises: BookError for what RE2 does not read, look-around and back-references among it
    """
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not any_case
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0].decode(errors="replace")
        raise BookError(
            f"leave_out takes regular expressions as RE2 reads them, without look-around and "
            f"back-references, got {pattern!r} ({said})"
        ) from error


REQUIRED = ("name", "title", "contents_url", "licence", "attribution")
TOP = {
    **dict.fromkeys(REQUIRED, str),
    "profile": str,
    "crawl_delay_s": (int, float),
    "select": dict,
    "leave_out": dict,
}
SELECT = {"links": str, "content": list, "drop": list, "notes": list, "note_markers": list}
LEAVE_OUT = {"slugs": list, "titles": list}


def load_book(path: Path) -> Book:
    """Read one book's TOML file. raises: BookError, naming the file, the key and what it must be"""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BookError(f"{path}: not a readable TOML file ({error})") from error
    try:
        return _book(table, path)
    except ValueError as error:
        raise BookError(f"{path}: {error}") from error


def _book(table: dict[str, Any], path: Path) -> Book:
    _check_keys(table, TOP, "")
    select, leave_out = table.get("select", {}), table.get("leave_out", {})
    _check_keys(select, SELECT, "select.")
    _check_keys(leave_out, LEAVE_OUT, "leave_out.")
    missing = [key for key in REQUIRED if key not in table]
    missing += [f"select.{key}" for key in ("links", "content") if key not in select]
    if missing:
        raise BookError(f"a book needs {', '.join(missing)}; see the shipped books for an example")
    plain: dict[str, Any] = {
        key: value for key, value in table.items() if key not in ("select", "leave_out")
    }
    selectors: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in select.items()
    }
    rules: dict[str, Any] = {f"leave_out_{key}": tuple(value) for key, value in leave_out.items()}
    return Book(**plain, **selectors, **rules, path=path)


def _check_keys(table: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
    for key, value in table.items():
        if key not in known:
            raise BookError(
                f"unknown key {prefix}{key}; the keys are "
                f"{', '.join(prefix + name for name in known)}"
            )
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise BookError(f"{prefix}{key} has the wrong type: {value!r}")
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise BookError(f"{prefix}{key} must be a list of strings, got {value!r}")


def load_books(folder: Path) -> list[Book]:
    """Every *.toml of a folder, by name. raises: BookError, also where two files name one book"""
    if not folder.is_dir():
        raise BookError(f"no folder of books at {folder}; give a folder that holds TOML files")
    books = [load_book(path) for path in sorted(folder.glob("*.toml"))]
    _refuse_doubles(books)
    return books


def books_of_profile(profile: str, own: Path | None = None) -> list[Book]:
    """The shipped books of a profile, then those of one's own folder.

    A book in the folder belongs to every profile unless it names one.
    raises: BookError; ValueError for a profile without books
    """
    shipped = load_books(SHIPPED)
    chosen = [book for book in shipped if book.profile == profile]
    if not chosen:
        known = sorted({book.profile for book in shipped})
        raise ValueError(f"no books for profile {profile!r}; the profiles are {', '.join(known)}")
    if own is not None:
        chosen += [book for book in load_books(own) if book.profile in ("", profile)]
    _refuse_doubles(chosen)
    return chosen


def _refuse_doubles(books: list[Book]) -> None:
    seen: dict[str, Book] = {}
    for book in books:
        if book.name in seen:
            raise BookError(
                f"two books are named {book.name!r}: {seen[book.name].path} and "
                f"{book.path}; rename one"
            )
        seen[book.name] = book
