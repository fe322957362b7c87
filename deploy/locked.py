"""Split what pip chose for an image into what it installs by hash and what it cannot.

    python deploy/locked.py chosen.json constraints.lock locked.txt unlocked.txt

`chosen.json` is the report of `pip install --dry-run`. Torch's own builds have no usable hash: the
index decides whether its CPU build or CUDA's is taken. Whatever else the lock lacks is an error.
"""

import json
import re
import sys
from pathlib import Path

# torch, and what CUDA's build of it brings
WITHOUT_HASHES = re.compile(r"torch|triton|cuda-.*|nvidia-.*")


def split(report: str, lock: str) -> tuple[list[str], list[str]]:
    """Requirements with their hashes, and those without. raises: ValueError for a package that the
    lock lacks, or has in another version"""
    entries = {entry.split("==")[0]: entry for entry in re.split(r"\n(?=\w)", lock.strip())}
    locked, unlocked = [], []
    for each in json.loads(report)["install"]:
        # the name as the lock writes it
        name = re.sub(r"[-_.]+", "-", each["metadata"]["name"]).lower()
        pinned = f"{name}=={each['metadata']['version']}"
        if WITHOUT_HASHES.fullmatch(name):
            unlocked.append(pinned)
        elif entries.get(name, "").startswith(f"{pinned} "):
            locked.append(entries[name])
        else:
            raise ValueError(
                f"constraints.lock must have every package of an image, got {pinned}; pin it in "
                "constraints.txt and run `make lock`"
            )
    return locked, unlocked


def main() -> None:
    """Read the two files, write the two others."""
    report, lock, *written = map(Path, sys.argv[1:])
    try:
        parts = split(report.read_text(), lock.read_text())
    except ValueError as error:
        sys.exit(str(error))
    for path, lines in zip(written, parts, strict=True):
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
