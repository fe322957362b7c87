"""Which chapters are held out from training. Knows their names only."""

import hashlib


def held_out(book: str, slug: str, fraction: float) -> bool:
    """Whether a chapter is kept from training: a fixed draw by its name, so that it never changes
    sides.

    fraction: the share of chapters held out, 0..1
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be 0..1, got {fraction}")
    digest = hashlib.sha256(f"{book}/{slug}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
