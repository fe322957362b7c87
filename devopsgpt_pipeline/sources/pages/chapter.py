"""What a chapter says: the blocks of its content element, in reading order.

Everything that asks whether a chapter changed, how long it is or what it says reads these blocks:
the data version, the guards, the table of changes, the clean text. Scripts, styles, attributes,
navigation and footer are not in them.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.css import select
from devopsgpt_pipeline.sources.html import Element, decode_page, parse_page
from devopsgpt_pipeline.sources.pages.html_to_blocks import Block, BlockReader


@dataclass(frozen=True)
class Content:
    """A chapter's blocks, and its notes apart."""

    blocks: tuple[Block, ...]
    notes: tuple[Block, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of kinds and texts: equal for two pages that say the same in the same structure."""
        digest = hashlib.sha256()
        for block in (*self.blocks, Block("notes", ""), *self.notes):
            parts = (block.kind, str(block.depth), block.marker, *(block.cells or (block.text,)))
            digest.update("\x1f".join(parts).encode() + b"\x1e")
        return digest.hexdigest()

    @cached_property
    def chars(self) -> int:
        """Characters of all blocks and notes."""
        return sum(len(block.text) for block in (*self.blocks, *self.notes))

    @property
    def prose(self) -> str:
        """The text outside listings, one block a line."""
        return "\n".join(
            block.text for block in (*self.blocks, *self.notes) if block.kind != "listing"
        )


def read_content(body: bytes, book: Book, charset: str | None = None) -> Content | None:
    """A page's content; None where no content selector matches, or where what matches holds no
    text.

    raises: Undecodable
    """
    tree = parse_page(decode_page(body, charset))
    if tree is None:
        return None
    roots = _content_elements(tree, book)
    dropped = {element for selector in book.drop for element in select(tree, selector)}
    for selector in book.note_markers:
        dropped |= {_with_its_sup(element) for element in select(tree, selector)}
    notes = {element for selector in book.notes for element in select(tree, selector)}
    reader = BlockReader(dropped, notes)
    for root in roots:
        reader.read(root)
    content = Content(tuple(reader.body.blocks), tuple(reader.notes))
    return content if content.blocks else None


def _content_elements(tree: Element, book: Book) -> list[Element]:
    for selector in book.content:
        found = select(tree, selector)
        if found:
            inside = set(found)
            # an element's ancestors are at most page.MAX_DEPTH
            return [
                element
                for element in found
                if not any(above in inside for above in element.iterancestors())
            ]
    return []


def _with_its_sup(marker: Element) -> Element:
    above = marker.getparent()
    return above if above is not None and above.tag == "sup" else marker
