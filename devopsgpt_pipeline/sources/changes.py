"""What a scrape changed: a table of chapters with characters gained and lost, and a readable diff
of each."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from devopsgpt_pipeline.sources.pages.chapter import Content

MAX_DIFF_LINES = 200
MAX_COMPARED_WORDS = 600
"""A passage longer than this, on either side, counts as replaced as a whole: comparing is
quadratic."""
MAX_COMPARED_LINES = 5_000
"""The same for a chapter, in sentences and lines of listings; the longest chapters have about
1,000."""
MAX_LINE_CHARS = 400
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]?\s+(?=[\"'“‘(]?[A-Z0-9])")


@dataclass(frozen=True)
class Chapter:
    """A chapter as the guards and the table see it. content: None where its page has no content
    element."""

    slug: str
    title: str
    content: Content | None
    whole: bool = True
    """Whether the page ends as HTML pages do, with `</html>`."""

    @property
    def chars(self) -> int:
        return self.content.chars if self.content else 0


@dataclass(frozen=True)
class ChapterChange:
    """One line of the table. change: added, removed, changed, renamed, moved (several with commas),
    or unchanged."""

    slug: str
    title: str
    change: str
    chars_before: int
    chars_after: int
    gained: int
    lost: int
    diff: str = ""


def compare(before: Sequence[Chapter], after: Sequence[Chapter]) -> list[ChapterChange]:
    """The table of a book's chapters: those of now in reading order, then those that are gone."""
    old = {chapter.slug: chapter for chapter in before}
    moved = _moved([chapter.slug for chapter in before], [chapter.slug for chapter in after])
    table = [_change(old.get(chapter.slug), chapter, chapter.slug in moved) for chapter in after]
    staying = {chapter.slug for chapter in after}
    for chapter in before:
        if chapter.slug not in staying:
            chars = chapter.chars
            table.append(ChapterChange(chapter.slug, chapter.title, "removed", chars, 0, 0, chars))
    return table


def _change(old: Chapter | None, new: Chapter, moved: bool) -> ChapterChange:
    if old is None:
        return ChapterChange(new.slug, new.title, "added", 0, new.chars, new.chars, 0)
    kinds, gained, lost, diff = [], 0, 0, ""
    if _sha256(old) != _sha256(new):
        kinds.append("changed")
        gained, lost, diff = _difference(_sentences(old), _sentences(new))
    if old.title != new.title:
        kinds.append("renamed")
    if moved:
        kinds.append("moved")
    change = ", ".join(kinds) or "unchanged"
    return ChapterChange(new.slug, new.title, change, old.chars, new.chars, gained, lost, diff)


def _sha256(chapter: Chapter) -> str | None:
    return chapter.content.sha256 if chapter.content else None


def _moved(before: list[str], after: list[str]) -> set[str]:
    """Slugs of both whose place among the others changed: all but the longest part that kept its
    order."""
    staying, present = set(after), set(before)
    old = [slug for slug in before if slug in staying]
    new = [slug for slug in after if slug in present]
    matcher = difflib.SequenceMatcher(a=old, b=new, autojunk=False)
    return set(new) - {
        slug
        for match in matcher.get_matching_blocks()
        for slug in old[match.a : match.a + match.size]
    }


def _sentences(chapter: Chapter) -> list[str]:
    if chapter.content is None:
        return []
    lines: list[str] = []
    for block in (*chapter.content.blocks, *chapter.content.notes):
        if block.kind == "listing":
            lines += block.text.split("\n")
        else:
            lines += SENTENCE_END.split(
                " | ".join(block.cells) if block.cells else block.text.replace("\n", " ")
            )
    return lines


def _difference(old: list[str], new: list[str]) -> tuple[int, int, str]:
    """Characters gained, characters lost, and the diff, a sentence a line."""
    if max(len(old), len(new)) > MAX_COMPARED_LINES:
        diff = f"too long to compare: {len(old):,} lines before, {len(new):,} now"
        return sum(map(len, new)), sum(map(len, old)), diff
    gained = lost = 0
    for tag, i, j, k, m in difflib.SequenceMatcher(a=old, b=new).get_opcodes():
        if tag != "equal":
            more, less = _words_changed(" ".join(old[i:j]), " ".join(new[k:m]))
            gained, lost = gained + more, lost + less
    lines = [_shortened(line) for line in difflib.unified_diff(old, new, n=1, lineterm="")][2:]
    if len(lines) > MAX_DIFF_LINES:
        lines = [*lines[:MAX_DIFF_LINES], f"... {len(lines) - MAX_DIFF_LINES} more lines"]
    return gained, lost, "\n".join(lines)


def _words_changed(old: str, new: str) -> tuple[int, int]:
    was, now = re.findall(r"\s+|\S+", old), re.findall(r"\s+|\S+", new)
    if max(len(was), len(now)) > MAX_COMPARED_WORDS:
        return len(new), len(old)
    gained = lost = 0
    for tag, i, j, k, m in difflib.SequenceMatcher(a=was, b=now, autojunk=False).get_opcodes():
        if tag != "equal":
            gained, lost = gained + len("".join(now[k:m])), lost + len("".join(was[i:j]))
    return gained, lost


def _shortened(line: str) -> str:
    return (
        line
        if len(line) <= MAX_LINE_CHARS
        else f"{line[:MAX_LINE_CHARS]} ... ({len(line):,} characters)"
    )


def as_markdown(changes: Sequence[ChapterChange], reasons: Mapping[str, str]) -> str:
    """The table for people. reasons: slug -> why a chapter could not be fetched."""
    lines = [
        "| chapter | change | characters | gained | lost | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in changes:
        note = _cell(reasons.get(row.slug, ""))
        lines.append(
            f"| {_cell(row.title)} | {row.change} | {row.chars_after:,} | {row.gained:,} | "
            f"{row.lost:,} | {note} |"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
