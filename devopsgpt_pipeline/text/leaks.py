"""Whether anything of the held-out chapters leaked into training. Knows token ids, and no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAK_TOKENS = 50
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no token's part is lost modulo 2**64

Ids = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class SharedRun:
    """The same tokens in a training and in a held-out document. Positions and length in tokens."""

    train_doc: str
    train_start: int
    held_out_doc: str
    held_out_start: int
    length: int


def shared_runs(
    train: Mapping[str, Ids], held: Mapping[str, Ids], n: int = LEAK_TOKENS
) -> list[SharedRun]:
    """Every longest run of at least n tokens of a held-out document that stands in a training
    document too.

    Each is reported once, with the first place found in training. Time and memory grow linearly
    with the tokens.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more tokens, got {n}")
    known = _Runs(train, n)
    found: list[SharedRun] = []
    for name, ids in held.items():
        found += known.shared_with(name, np.asarray(ids, dtype=np.int64))
    return found


class _Runs:
    """All runs of n tokens of the training documents, by hash."""

    def __init__(self, docs: Mapping[str, Ids], n: int) -> None:
        self.n = n
        self.names = list(docs)
        self.docs = [np.asarray(ids, dtype=np.int64) for ids in docs.values()]
        hashes = [_run_hashes(ids, n) for ids in self.docs]
        everything = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
        which = np.concatenate(
            [np.full(len(part), i) for i, part in enumerate(hashes)] or [np.empty(0, np.int64)]
        )
        where = np.concatenate([np.arange(len(part)) for part in hashes] or [np.empty(0, np.int64)])
        order = np.argsort(everything, kind="stable")
        self.hashes, self.which, self.where = everything[order], which[order], where[order]

    def shared_with(self, name: str, ids: NDArray[np.int64]) -> list[SharedRun]:
        runs = _run_hashes(ids, self.n)
        at = np.searchsorted(self.hashes, runs)
        inside = np.flatnonzero(at < len(self.hashes))
        hits = inside[self.hashes[at[inside]] == runs[inside]]
        found: list[SharedRun] = []
        end = 0  # of the last run found
        for start in hits.tolist():
            if start + self.n <= end:
                continue
            run = self._run(name, ids, start, int(at[start]))
            if run is not None:
                found.append(run)
                end = start + run.length
        return found

    def _run(self, name: str, ids: NDArray[np.int64], start: int, at: int) -> SharedRun | None:
        doc, position = int(self.which[at]), int(self.where[at])
        train = self.docs[doc]
        longest = min(len(ids) - start, len(train) - position)
        differ = np.flatnonzero(
            ids[start : start + longest] != train[position : position + longest]
        )
        length = int(differ[0]) if len(differ) else longest
        if length < self.n:  # two different runs with one hash
            return None
        return SharedRun(self.names[doc], position, name, start, length)


def _run_hashes(ids: NDArray[np.int64], n: int) -> NDArray[np.uint64]:
    """A polynomial hash modulo 2**64 of each n tokens in a row: (len(ids) - n + 1,)."""
    count = max(0, len(ids) - n + 1)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    hashes = np.zeros(count, np.uint64)
    for offset in range(n):
        hashes *= MULTIPLIER
        hashes += mixed[offset : offset + count]
    return hashes
