"""The contents page: which chapters a book has, in which order, and which entries are not chapters
to learn from."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from devopsgpt_pipeline.sources.addresses import absolute_url
from devopsgpt_pipeline.sources.books import Book, read_pattern
from devopsgpt_pipeline.sources.css import select
from devopsgpt_pipeline.sources.html import Element, decode_page, parse_page

SPACES = re.compile(r"\s+")
NOT_IN_SLUG = re.compile(r"[^A-Za-z0-9_-]+")
MAX_SLUG_CHARS = 100
MAX_TITLE_CHARS = 1_000
MAX_LINKS = 2_000
"""On a contents page; more is no book's contents, and would cost its site as many requests."""


class ContentsUnreadable(ValueError):
    """A contents page without a link to a chapter: redesigned, an error page, a consent wall."""


@dataclass(frozen=True)
class ChapterLink:
    """One chapter, as the contents page lists it. order counts from 1."""

    order: int
    slug: str
    title: str
    url: str


@dataclass(frozen=True)
class LeftOut:
    """One entry that is not read, and the rule that says so."""

    title: str
    url: str
    reason: str


@dataclass(frozen=True)
class Contents:
    """What a contents page lists."""

    chapters: tuple[ChapterLink, ...]
    left_out: tuple[LeftOut, ...]


def read_contents(body: bytes, book: Book, charset: str | None = None) -> Contents:
    """The chapters of a book in reading order, and the entries left out.

    body: the contents page as served
    raises: ContentsUnreadable where the page has no chapter; Undecodable
    """
    tree = parse_page(decode_page(body, charset))
    links = [] if tree is None else select(tree, book.links)
    if len(links) > MAX_LINKS:
        raise ContentsUnreadable(
            f"{book.contents_url}: a contents page may have {MAX_LINKS:,} links, {book.links!r} "
            f"found {len(links):,}; "
            "make select.links in the book's TOML file narrower"
        )
    chapters: list[ChapterLink] = []
    left_out: list[LeftOut] = []
    slugs: dict[str, str] = {}  # slug -> url
    for link in links:
        title = _title(link)
        url = absolute_url(book.contents_url, link.get("href") or "")
        reason = _reason_to_leave_out(title, url, book, slugs)
        if reason:
            left_out.append(LeftOut(title, url, reason))
            continue
        slug = _free_slug(url, slugs)
        slugs[slug] = url
        chapters.append(ChapterLink(len(chapters) + 1, slug, title, url))
    if not chapters:
        raise ContentsUnreadable(
            f"{book.contents_url}: the contents page must link to chapters, {book.links!r} found "
            f"{len(links)} links "
            "and no chapter; look at the page, and mend select.links in the book's TOML file if it "
            "was redesigned"
        )
    return Contents(tuple(chapters), tuple(left_out))


def _title(link: Element) -> str:
    chars, parts = 0, []
    for part in link.itertext():
        parts.append(str(part))
        chars += len(part)
        if chars > MAX_TITLE_CHARS:
            break
    return SPACES.sub(" ", "".join(parts)[:MAX_TITLE_CHARS]).strip()


def _reason_to_leave_out(title: str, url: str, book: Book, slugs: dict[str, str]) -> str | None:
    address, home = urlsplit(url), urlsplit(book.contents_url)
    if not title or not address.scheme:
        return "a link without a title or an address"
    if url == book.contents_url:
        return "the contents page itself"
    if address.netloc != home.netloc or address.scheme not in (home.scheme, "https"):
        return f"on another host than {home.netloc}"
    if url in slugs.values():
        return "listed before"
    slug = slug_of(url)
    for pattern in book.leave_out_slugs:
        if read_pattern(pattern).fullmatch(slug):
            return f"slug rule {pattern!r}"
    for pattern in book.leave_out_titles:
        if read_pattern(pattern, any_case=True).search(title):
            return f"title rule {pattern!r}"
    return None


def slug_of(url: str) -> str:
    """The last part of an address's path as a file's name: letters, digits, - and _ only."""
    parts = [part for part in unquote(urlsplit(url).path).split("/") if part]
    last = re.sub(r"\.(x?html?|php|aspx?)$", "", parts[-1], flags=re.IGNORECASE) if parts else ""
    return NOT_IN_SLUG.sub("-", last).strip("-")[:MAX_SLUG_CHARS] or "page"


def _free_slug(url: str, slugs: dict[str, str]) -> str:
    slug = slug_of(url)
    if slug not in slugs:
        return slug
    parts = [NOT_IN_SLUG.sub("-", part) for part in unquote(urlsplit(url).path).split("/") if part]
    longer = "-".join(parts)[-MAX_SLUG_CHARS:].strip("-")
    number = 2
    while longer in slugs:
        longer, number = f"{slug}-{number}", number + 1
    return longer
