"""May a newly scraped corpus replace the one in use? Pure functions: chapters in, a result with its
numbers out.

A guard that fails keeps the last good corpus in use. A person who has looked and agrees accepts it
by its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from devopsgpt_pipeline.sources.changes import Chapter
from devopsgpt_pipeline.sources.pages.mojibake import mojibake_in

LOST_SHARE = 0.2
"""Of a book's chapters or text: more than a fifth gone at once is a broken site before it is a new
edition."""
SHRUNKEN_SHARE = 0.5
"""Of a chapter: less than half of what it was."""
SHRUNKEN_FROM_CHARS = 400
"""Chapters shorter than this may halve: part pages are a paragraph."""
MAX_NAMED = 5


@dataclass(frozen=True)
class GuardResult:
    """What one guard found. numbers: what it compared, for the metadata."""

    name: str
    passed: bool
    message: str
    numbers: dict[str, float]


@dataclass(frozen=True)
class Corpus:
    """What the guards judge. before: in use, [] at first; after: the candidate; listed: links on
    the contents page."""

    before: Sequence[Chapter]
    after: Sequence[Chapter]
    listed: int


def lost_chapters(corpus: Corpus) -> GuardResult:
    """A corpus must keep four fifths of its chapters; the first one, of the chapters that are
    listed."""
    before, after = len(corpus.before) or corpus.listed, len(corpus.after)
    what = "had" if corpus.before else "lists"
    message = f"{after} chapters; the book {what} {before}, and may lose {LOST_SHARE:.0%} of them"
    passed = after > 0 and after >= (1 - LOST_SHARE) * before
    return GuardResult("lost_chapters", passed, message, {"before": before, "after": after})


def lost_text(corpus: Corpus) -> GuardResult:
    """A corpus must keep four fifths of its characters."""
    before, after = _chars(corpus.before), _chars(corpus.after)
    message = (
        f"{after:,} characters; the book had {before:,}, and may lose {LOST_SHARE:.0%} of them"
    )
    return GuardResult(
        "lost_text", after >= (1 - LOST_SHARE) * before, message, {"before": before, "after": after}
    )


def missing_content(corpus: Corpus) -> GuardResult:
    """Every page must have its content element with text in it: a redesign, an error page or a
    captcha has none."""
    slugs = [chapter.slug for chapter in corpus.after if chapter.content is None]
    message = _named(
        slugs,
        "without its content element; look at the page, and mend select.content in the TOML file",
    )
    return GuardResult("missing_content", not slugs, message, {"chapters": len(slugs)})


def duplicate_chapters(corpus: Corpus) -> GuardResult:
    """No two chapters may say the same: one page served at every address is a consent wall."""
    first: dict[str, str] = {}
    doubles: list[str] = []
    for chapter in corpus.after:
        if chapter.content is not None:
            original = first.setdefault(chapter.content.sha256, chapter.slug)
            if original != chapter.slug:
                doubles.append(f"{chapter.slug} = {original}")
    message = _named(
        doubles, "with another chapter's content; leave one of them out, or mend the site's answer"
    )
    return GuardResult("duplicate_chapters", not doubles, message, {"chapters": len(doubles)})


def mojibake(corpus: Corpus) -> GuardResult:
    """No chapter's prose may show that it was decoded wrongly."""
    found = {
        chapter.slug: mojibake_in(chapter.content.prose)
        for chapter in corpus.after
        if chapter.content
    }
    slugs = [f"{slug} ({samples[0]!r})" for slug, samples in found.items() if samples]
    message = _named(
        slugs, "with wrongly decoded text; the site must mend it, or leave the chapter out"
    )
    return GuardResult("mojibake", not slugs, message, {"chapters": len(slugs)})


def shrunken_chapters(corpus: Corpus) -> GuardResult:
    """No chapter may be less than half of what it was."""
    was = {chapter.slug: chapter.chars for chapter in corpus.before}
    shrunken = [
        f"{chapter.slug} ({was[chapter.slug]:,} to {chapter.chars:,} characters)"
        for chapter in corpus.after
        if was.get(chapter.slug, 0) >= SHRUNKEN_FROM_CHARS
        and chapter.chars < SHRUNKEN_SHARE * was[chapter.slug]
    ]
    message = _named(shrunken, f"below {SHRUNKEN_SHARE:.0%} of what it was; look at the page")
    return GuardResult("shrunken_chapters", not shrunken, message, {"chapters": len(shrunken)})


def cut_off_pages(corpus: Corpus) -> GuardResult:
    """A page must end as the book's others do: a wrong Content-Length cuts it off and no transport
    notices."""
    whole = sum(chapter.whole for chapter in corpus.after)
    cut = [chapter.slug for chapter in corpus.after if not chapter.whole]
    if whole <= len(cut):  # the site's pages do without the closing tag
        cut = []
    message = _named(cut, "that ends without </html> while the others have it; scrape again later")
    return GuardResult("cut_off_pages", not cut, message, {"chapters": len(cut)})


GUARDS: tuple[Callable[[Corpus], GuardResult], ...] = (
    lost_chapters,
    lost_text,
    missing_content,
    duplicate_chapters,
    mojibake,
    shrunken_chapters,
    cut_off_pages,
)


def judge(corpus: Corpus) -> list[GuardResult]:
    """Every guard's result, in the order of GUARDS."""
    return [guard(corpus) for guard in GUARDS]


def _chars(chapters: Sequence[Chapter]) -> int:
    return sum(chapter.chars for chapter in chapters)


def _named(slugs: list[str], fault: str) -> str:
    if not slugs:
        return "every chapter passes"
    more = f" and {len(slugs) - MAX_NAMED} more" if len(slugs) > MAX_NAMED else ""
    return (
        f"{len(slugs)} chapter{'s' if len(slugs) > 1 else ''} {fault}: "
        f"{', '.join(slugs[:MAX_NAMED])}{more}"
    )
