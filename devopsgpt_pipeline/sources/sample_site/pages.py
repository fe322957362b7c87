"""The embedded library's pages, in the structure of the site that the real books stand on.

Reads books/<book>/book.toml and <slug>.html (the inside of the content element). Knows no
transport.
"""

import hashlib
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

PACKAGED = Path(__file__).parent / "books"
CONTENTS = "table-of-contents"
DEPLOY = "51c0ffe"
"""What the site's build puts behind `?cache=` in its style and script links."""


@dataclass(frozen=True)
class Entry:
    """One entry of a sample book's list of chapters."""

    slug: str
    title: str
    chapter_title: str


@dataclass(frozen=True)
class SampleBook:
    """One sample book's description."""

    name: str
    title: str
    style: str
    """nested: sections inside sections; flat: headings and paragraphs side by side."""
    authors: tuple[str, ...]
    licence: str
    last_modified: str
    """As an HTTP date."""
    entries: tuple[Entry, ...]
    folder: Path


def read_sample_book(folder: Path) -> SampleBook:
    """One book of the library. raises: ValueError for a description that lacks something"""
    try:
        table = tomllib.loads((folder / "book.toml").read_text(encoding="utf-8"))
        entries = tuple(Entry(**entry) for entry in table.pop("entries"))
        authors = tuple(table.pop("authors"))
        return SampleBook(
            name=folder.name, entries=entries, authors=authors, folder=folder, **table
        )
    except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(
            f"{folder / 'book.toml'} does not describe a sample book ({error})"
        ) from error


def contents_page(book: SampleBook, deploy: str = DEPLOY) -> str:
    """The page that lists the chapters, in the drop-down and once more in the content."""
    items = "\n".join(
        f'<li>\n<a href="{_path(book, entry.slug)}">\n{_contents_label(entry)}\n</a>\n</li>'
        for entry in book.entries
    )
    content = (
        '<div id="maia-main" role="main">\n'
        '<div class="book-wrapper"><div class="maia-aux"><div class="maia-cols">\n'
        '<div class="maia-col-12" id="content">\n'
        '<h1 class="heading">Table of Contents</h1>\n<div class="content">\n'
        f'<ul>\n<li><a class="menu-buttons" href="{_path(book, CONTENTS)}">'
        "Table of Contents</a></li>\n"
        f"{items}\n</ul>\n"
        "</div>\n</div>\n</div></div></div>\n</div>"
    )
    return _page(
        book, "Table of Contents", _drop_down(book, None), content, _footer(book, None), deploy
    )


def chapter_page(book: SampleBook, slug: str, deploy: str = DEPLOY) -> str:
    """One chapter's page. raises: KeyError for a slug that the book does not list or that has no
    file"""
    entry = next((entry for entry in book.entries if entry.slug == slug), None)
    path = book.folder / f"{slug}.html"
    if entry is None or not path.is_file():
        raise KeyError(slug)
    role = ' role="main"' if book.style == "nested" else ""
    inside = path.read_text(encoding="utf-8")
    content = (
        f'<div id="maia-main"{role}>\n<div class="content" id="content">\n{inside}\n</div>\n</div>'
    )
    return _page(
        book, entry.chapter_title, _drop_down(book, slug), content, _footer(book, slug), deploy
    )


def etag_of(page: str) -> str:
    """A strong validator: equal bytes, equal tag."""
    return f'"{hashlib.sha256(page.encode()).hexdigest()[:16]}"'


def _path(book: SampleBook, slug: str) -> str:
    return f"/{book.name}/{slug}/"


def _contents_label(entry: Entry) -> str:
    label = escape(entry.chapter_title, quote=False)
    return f"<strong>{label}</strong>" if entry.title.startswith("Part ") else label


def _drop_down(book: SampleBook, active: str | None) -> str:
    lines = ['<ol id="drop-down" class="dropdown-content hide">']
    if active is not None:
        lines.append(
            f'<li><a class="menu-buttons" href="{_path(book, CONTENTS)}">Table of Contents</a></li>'
        )
    for entry in book.entries:
        mark = ' class="active"' if entry.slug == active else ""
        label = escape(entry.title, quote=False)
        lines.append(
            f'<li{mark}>\n<a href="{_path(book, entry.slug)}" class="menu-buttons">\n'
            f"    {label}\n</a>\n</li>"
        )
    return "\n".join([*lines, "</ol>"])


def _footer(book: SampleBook, slug: str | None) -> str:
    slugs = [entry.slug for entry in book.entries]
    at = slugs.index(slug) if slug else None
    previous = book.entries[at - 1] if at else None
    following = book.entries[at + 1] if at is not None and at + 1 < len(slugs) else None
    around = (
        ""
        if at is None
        else _neighbour("previous", previous, book) + _neighbour("next", following, book)
    )
    names = escape(
        " and ".join(
            [", ".join(book.authors[:-1]), book.authors[-1]] if book.authors[1:] else book.authors
        )
    )
    licence = (
        f'<p class="footer-link">Copyright {names}. '
        f'Licensed under <a href="/licence/">{book.licence}</a></p>'
    )
    return f'<div class="footer"><div class="maia-aux">\n{around}{licence}\n</div></div>'


def _neighbour(side: str, entry: Entry | None, book: SampleBook) -> str:
    if entry is None:
        return f'<div class="{side}">\n</div>\n'
    title = escape(entry.chapter_title, quote=False)
    return (
        f'<div class="{side}">\n<a href="{_path(book, entry.slug)}">\n'
        f'<p class="footer-caption">{side.title()}</p>\n'
        f'<p class="chapter-link">\n    {title}\n</p>\n</a>\n</div>\n'
    )


def _page(
    book: SampleBook, heading: str, drop_down: str, content: str, footer: str, deploy: str
) -> str:
    assets = f"/{book.name}/static"
    data = (
        f'<script type="application/ld+json">{{"@type": "Book", "name": "{book.title}"}}</script>\n'
        if book.style == "flat"
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta content="initial-scale=1, minimum-scale=1, width=device-width" name="viewport">
<title>{escape(book.title)}</title>
<link href="{assets}/css/index.min.css?cache={deploy}" rel="stylesheet">
<script>window.visits = window.visits || []; visits.push("view");</script>
<script src="{assets}/js/detect.min.js?cache={deploy}"></script>
{data}</head>
<body>
<main>
<div ng-controller= "HeaderCtrl as headerCtrl">
<div id="curtain" class="menu-closed"></div>
<div class="header clearfix">
<a id="burger-menu" class="expand"></a>
<h2 class="chapter-title">
    {escape(heading, quote=False)}
</h2>
</div>
<div id="overlay-element" class="expands">
{drop_down}
</div>
</div>
{content}
{footer}
</main>
<script src="{assets}/js/index.min.js?cache={deploy}"></script>
</body>
</html>
"""
