"""The one place where text is normalized.

What is chosen here, and why: typographic quotes become straight ones, because GPT-2's vocabulary
has 's and " as single tokens where ’ and “ cost two, and because the books mix both. Dashes and
ellipses stay: they carry meaning.
"""

import re
import unicodedata

from devopsgpt_pipeline.sources.pages.mojibake import mojibake_in

QUOTES = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‚": "'",
        "‛": "'",
        "′": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "‟": '"',
        "″": '"',
    }
)
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufe00-\ufe0f]"
)
"""Soft hyphens, zero-width characters, direction and variation marks."""
OTHER_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
RUNS_OF_SPACES = re.compile(" {2,}")


class UncleanText(ValueError):
    """Text that was decoded wrongly before it reached us, or that is no text at all."""


def normalize(text: str) -> str:
    """NFC, without invisible characters, spaces all alike, straight quotes. Line breaks and
    indentation stay."""
    text = INVISIBLE.sub("", LINE_BREAKS.sub("\n", text))
    text = OTHER_SPACES.sub(" ", CONTROL.sub("", text))
    return unicodedata.normalize("NFC", text.translate(QUOTES))


def normalize_prose(text: str) -> str:
    """As normalize, and no two spaces in a row; for everything but listings."""
    return RUNS_OF_SPACES.sub(" ", normalize(text)).strip()


def refuse_mojibake(text: str, name: str) -> str:
    """The text itself. raises: UncleanText where it shows that it was decoded wrongly, with a
    sample"""
    samples = mojibake_in(text)
    if samples:
        raise UncleanText(
            f"{name}: text must be decoded rightly, found {samples[0]!r}; look at the archived "
            "page, and leave the "
            "chapter out in the book's TOML file if its site does not mend it"
        )
    return text
