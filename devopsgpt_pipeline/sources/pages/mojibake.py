"""Text that was decoded with the wrong character set before it reached us: found, never repaired.

Used by the guards on a new corpus and by the cleaning of text. Knows nothing of pages.
"""

import re

# A UTF-8 sequence read as windows-1252 begins with one of these (0xc2-0xf4) and goes on with
# 0x80-0xbf.
_CONTINUED = "".join(bytes([byte]).decode("cp1252", errors="ignore") for byte in range(0x80, 0xC0))
SUSPECT = re.compile(f"[\u00c2-\u00f4][\u0080-\u00bf{re.escape(_CONTINUED)}]{{1,3}}")
# Letters with accents, typographic marks, the byte order mark, pictures. Anything else is chance:
# an e with an accent, a closing quote and a dash read backwards are one Chinese character.
PLAUSIBLE = (
    (0x80, 0x24F),
    (0x2000, 0x22FF),
    (0xFEFF, 0xFEFF),
    (0xFFFD, 0xFFFD),
    (0x1F300, 0x1FAFF),
)
REPLACEMENT = "\ufffd"
LONGEST_SAMPLES = 5


def mojibake_in(text: str) -> list[str]:
    """Where text shows that it was decoded wrongly: up to 5 samples of 40 characters, [] for sound
    text."""
    places = [found.start() for found in SUSPECT.finditer(text) if _was_utf8(found.group())]
    places += [found.start() for found in re.finditer(REPLACEMENT, text)]
    return [text[max(0, at - 15) : at + 25].strip() for at in sorted(places)[:LONGEST_SAMPLES]]


def _was_utf8(run: str) -> bool:
    raw = b"".join(_byte(character) for character in run)
    for end in range(2, len(raw) + 1):
        try:
            character = raw[:end].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return any(low <= ord(character) <= high for low, high in PLAUSIBLE)
    return False


def _byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        # 0x81, 0x8d, 0x8f, 0x90, 0x9d have no character in windows-1252
        return character.encode("latin-1")
