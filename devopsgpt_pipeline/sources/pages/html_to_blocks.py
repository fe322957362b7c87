"""An element of a page to its blocks: headings, paragraphs, items, rows and listings, each once and
in order.

Knows HTML's elements and no book. Linear in the page, and without recursion however deep it nests.
"""

import re
from dataclasses import dataclass, field

from lxml import etree

from devopsgpt_pipeline.sources.html import Element, names

HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
LISTS = frozenset({"ul", "ol", "menu", "dir"})
CELLS = frozenset({"td", "th"})
BLOCKS = (
    HEADINGS
    | LISTS
    | CELLS
    | names(
        "address article aside blockquote body caption center dd details div dl dt fieldset "
        "figcaption figure footer "
        "header hr legend li main p pre listing section summary table tbody tfoot thead tr xmp"
    )
)
LISTINGS = frozenset({"pre", "listing", "xmp"})
KINDS = {
    "li": "item",
    "dt": "term",
    "dd": "definition",
    "caption": "caption",
    "figcaption": "caption",
} | dict.fromkeys(HEADINGS, "heading")
NEVER_TEXT = names(
    "script style noscript template head title svg iframe object embed nav button select textarea "
    "input canvas audio "
    "video map datalist"
)
SPACES = re.compile(r"[ \t\n\r\f]+")
SUPERSCRIPT = str.maketrans("0123456789+-\u2212\u2013n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻ⁿ")
SUBSCRIPT = str.maketrans("0123456789+-\u2212\u2013", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋")
# signs, a digit, and then either
RAISED = re.compile(r"[+\-\u2212\u2013]*+[0-9][0-9+\-\u2212\u2013]*+|n")


@dataclass(frozen=True)
class Block:
    """One heading, paragraph, list item, term, definition, caption, table row or listing.

    text: spaces collapsed, a line break for <br>; a listing's as it stands
    depth: of an item, 1 for the outermost list
    marker: of an item, "-" or its number with a full stop; "" where the item goes on
    cells: of a row
    """

    kind: str
    text: str
    depth: int = 0
    marker: str = ""
    cells: tuple[str, ...] = ()


@dataclass
class _Output:
    """Where text goes at the moment: the body, or one note."""

    blocks: list[Block]
    buffer: list[str] = field(default_factory=list)


@dataclass
class _List:
    tag: str
    number: int


@dataclass
class _Item:
    marker: str
    depth: int


@dataclass
class _Row:
    cells: list[str] = field(default_factory=list)
    layout: bool = False
    """A cell with a heading in it: the table places columns, and its blocks stand for
    themselves."""
    left: bool = False
    """What the open cell held so far is a row already, since a listing or a table stands inside
    it."""


class BlockReader:
    """Walks elements without recursion and collects their blocks.

    dropped: elements to skip; notes: elements whose blocks are notes
    """

    def __init__(self, dropped: set[Element], notes: set[Element]) -> None:
        self.dropped, self.note_elements = dropped, notes
        self.body = _Output([])
        self.notes: list[Block] = []
        self.outputs = [self.body]
        self.lists: list[_List] = []
        self.items: list[_Item] = []
        self.rows: list[_Row] = []
        self.kinds: list[str] = []
        self.listings = 0
        self.raised: list[tuple[int, bool]] = []  # where an open <sup> or <sub> began in the buffer

    def read(self, root: Element) -> None:
        """Add an element's blocks to `body` and `notes`."""
        walk = etree.iterwalk(root, events=("start", "end"))
        skipped: Element | None = None
        for event, element in walk:
            if event == "start":
                if element in self.dropped or element.tag in NEVER_TEXT:
                    skipped = element
                    walk.skip_subtree()
                else:
                    self._start(element)
                    self._text(element.text)
            else:
                if element is skipped:
                    skipped = None
                else:
                    self._end(element)
                if element is not root:
                    self._text(element.tail)
        self._flush()

    def _text(self, text: str | None) -> None:
        if text:
            self.outputs[-1].buffer.append(text if self.listings else SPACES.sub(" ", text))

    def _start(self, element: Element) -> None:
        tag = element.tag
        if tag in BLOCKS:
            self._boundary()
        if element in self.note_elements:
            self.outputs.append(_Output([]))
        if tag == "br":
            self.outputs[-1].buffer.append("\n")
        elif tag in ("sup", "sub"):
            self.raised.append((len(self.outputs[-1].buffer), tag == "sup"))
        elif tag in LISTINGS:
            self._leave_cell()
            self.listings += 1
        elif tag in LISTS:
            self.lists.append(_List(tag, _number(element.get("start"), 1)))
        elif tag == "tr":
            self._leave_cell()
            self._flush()
            self.rows.append(_Row())
        elif tag in KINDS:
            self.kinds.append(KINDS[tag])
            if tag == "li":
                self.items.append(self._item(element))
            elif tag in HEADINGS and self.rows and not self.listings:
                self._leave_cell()
                self.rows[-1].layout = True

    def _end(self, element: Element) -> None:
        tag = element.tag
        if tag in CELLS and self._in_cell():
            self._close_cell()
        elif tag in BLOCKS:
            self._boundary(ends_listing=tag in LISTINGS)
        if tag in ("sup", "sub") and self.raised:
            self._raise(*self.raised.pop())
        elif tag in LISTINGS:
            self.listings = max(0, self.listings - 1)
        elif tag in LISTS and self.lists:
            self.lists.pop()
        elif tag == "tr" and self.rows:
            self._flush_row()
            self.rows.pop()
        elif tag in KINDS and self.kinds:
            self.kinds.pop()
            if tag == "li":
                self.items.pop()
        if element in self.note_elements:
            self._flush()
            note = self.outputs.pop()
            self.notes.extend(Block("note", block.text) for block in note.blocks)

    def _item(self, element: Element) -> _Item:
        marker = "-"
        if self.lists and self.lists[-1].tag == "ol":
            number = _number(element.get("value"), self.lists[-1].number)
            self.lists[-1].number = number + 1
            marker = f"{number}."
        return _Item(marker, max(1, len(self.lists)))

    def _raise(self, start: int, above: bool) -> None:
        buffer = self.outputs[-1].buffer
        inside = "".join(buffer[start : start + 3])
        if len(buffer) - start > 3:
            return
        # 10<sup>9</sup> must not become 109
        if RAISED.fullmatch(inside) and not (inside == "n" and not above):
            buffer[start:] = [inside.translate(SUPERSCRIPT if above else SUBSCRIPT)]

    def _boundary(self, ends_listing: bool = False) -> None:
        """A block begins or ends here: what was collected is one block, a cell's part, or a
        listing's line."""
        output = self.outputs[-1]
        if self.listings and not (ends_listing and self.listings == 1):
            if output.buffer and not output.buffer[-1].endswith("\n"):
                output.buffer.append("\n")
        elif self._in_cell():
            output.buffer.append("\n")  # a block inside a cell: still the same cell
        else:
            self._flush()

    def _in_cell(self) -> bool:
        return (
            bool(self.rows)
            and not self.rows[-1].layout
            and not self.listings
            and self.outputs[-1] is self.body
        )

    def _leave_cell(self) -> None:
        if self._in_cell():
            self._flush_row()
            self.rows[-1].left = True

    def _close_cell(self) -> None:
        row, text = self.rows[-1], _line(self._take())
        if text or not row.left:
            row.cells.append(text)
        row.left = False

    def _flush_row(self) -> None:
        if not self._in_cell():
            self._flush()
            return
        rest = _line(self._take())
        cells = (*self.rows[-1].cells, rest) if rest else tuple(self.rows[-1].cells)
        self.rows[-1].cells = []
        if any(cells):
            self.outputs[-1].blocks.append(Block("row", " ".join(filter(None, cells)), cells=cells))

    def _take(self) -> str:
        output = self.outputs[-1]
        text = "".join(output.buffer)
        output.buffer = []
        return text

    def _flush(self) -> None:
        text = self._take()
        if self.listings:
            self._add_listing(text)
            return
        lines = [line.strip() for line in SPACES_NOT_BREAKS.sub(" ", text).split("\n")]
        text = "\n".join(line for line in lines if line)
        if not text:
            return
        blocks = self.outputs[-1].blocks
        kind = self.kinds[-1] if self.kinds else "paragraph"
        if kind == "item" and self.items:
            item = self.items[-1]
            blocks.append(Block(kind, text.replace("\n", " "), item.depth, item.marker))
            item.marker = ""
        else:
            blocks.append(
                Block(
                    kind, text if kind in ("paragraph", "definition") else text.replace("\n", " ")
                )
            )

    def _add_listing(self, text: str) -> None:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        while lines and not lines[0].strip():
            lines.pop(0)
        while lines and not lines[-1].strip():
            lines.pop()
        if lines:
            self.outputs[-1].blocks.append(
                Block("listing", "\n".join(line.rstrip() for line in lines))
            )


SPACES_NOT_BREAKS = re.compile(r"[ \t\f\r]+")


def _line(text: str) -> str:
    return SPACES.sub(" ", text).strip()


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,6}", text.strip()) else otherwise
