"""A page to a title and its text, everything of the content once and in reading order, the notes
apart.

Stands between the archived page and the text on disk. The blocks come from
sources/pages; how they are written down, a table's row among them, is decided here.
"""

import re
from dataclasses import dataclass

from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.pages.chapter import Content, read_content
from devopsgpt_pipeline.sources.pages.html_to_blocks import Block
from devopsgpt_pipeline.text.clean import normalize, normalize_prose, refuse_mojibake

LABEL = re.compile(
    r"^(chapter\s+|appendix\s+|part\s+)?([0-9]+|[ivxlc]+|[a-z])\s*[.:\-–—]\s+", re.IGNORECASE
)
NOT_WORD = re.compile(r"\W+")
TIGHT = {("item", "item"), ("row", "row"), ("term", "definition")}
"""Neighbours without an empty line between them."""


class EmptyChapter(ValueError):
    """A page whose content element is missing or holds no text."""


@dataclass(frozen=True)
class ChapterText:
    """A chapter as it is learnt from. text begins with the title; notes are not in it."""

    title: str
    text: str
    notes: tuple[str, ...]

    @property
    def whole(self) -> str:
        """The text, then the notes, a paragraph each."""
        return "\n\n".join([self.text, *self.notes]) + "\n"


def extract_chapter(body: bytes, book: Book, title: str, charset: str | None = None) -> ChapterText:
    """The text of one page.

    body: the page as served; title: what the contents page calls it, used where the page does not
    say it itself
    raises: EmptyChapter, UncleanText, Undecodable
    """
    content = read_content(body, book, charset)
    name = f"{book.name}, {title!r}"
    if content is None:
        raise EmptyChapter(
            f"{name}: a page must have text in {' or '.join(book.content)}, found none; mend "
            "select.content"
        )
    refuse_mojibake(content.prose, name)
    heading, blocks = _title(content, title)
    notes = tuple(filter(None, (normalize_prose(note.text) for note in content.notes)))
    return ChapterText(heading, _write([Block("heading", heading), *blocks]), notes)


def _title(content: Content, title: str) -> tuple[str, list[Block]]:
    """The title to put first, and the blocks after it: a first heading that says the same is not
    said twice."""
    title = normalize_prose(title.replace("\n", " "))
    first, *rest = content.blocks
    heading = normalize_prose(first.text)
    if first.kind == "heading" and heading and (not title or _same(heading, title)):
        return heading, rest
    return LABEL.sub("", title) or title or heading, list(content.blocks)


def _same(heading: str, title: str) -> bool:
    """Whether two titles differ in their numbering at most: "1. Introduction", "Chapter 1 -
    Introduction"."""
    bare = [NOT_WORD.sub("", LABEL.sub("", text)).casefold() for text in (heading, title)]
    full = [NOT_WORD.sub("", text).casefold() for text in (heading, title)]
    return bare[0] == bare[1] or full[0] == full[1]


def _write(blocks: list[Block]) -> str:
    parts: list[str] = []
    before = ""
    for block in blocks:
        text = _line(block)
        if text:
            parts.append(("\n" if (before, block.kind) in TIGHT else "\n\n") if parts else "")
            parts.append(text)
            before = block.kind
    return "".join(parts)


def _line(block: Block) -> str:
    """One block as text: an item with its marker, indented by its depth; a row's cells with bars
    between them."""
    if block.kind == "listing":
        return normalize(block.text).strip("\n")
    if block.kind == "row":
        return " | ".join(normalize_prose(cell) for cell in block.cells)
    text = "\n".join(filter(None, (normalize_prose(line) for line in block.text.split("\n"))))
    if block.kind == "item" and text:
        indent = "  " * (block.depth - 1)
        return f"{indent}{block.marker} {text}" if block.marker else f"{indent}  {text}"
    return text
