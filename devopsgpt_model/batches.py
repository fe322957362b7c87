"""Token bins to batches: shuffled windows for training, one full pass for evaluation."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ShuffledWindows:
    """Training batches: each epoch cuts the tokens at a new random phase and visits every window
    once.

    The batch of a step follows from the seed and the step alone, so a resumed run needs no saved
    position. Draws with replacement, nanoGPT's way, see 63% (1 - 1/e) of the tokens in an epoch's
    worth of batches.
    """

    def __init__(
        self, tokens: NDArray[np.uint16], block_size: int, batch_size: int, seed: int
    ) -> None:
        """raises: ValueError where the tokens do not fill one window and its targets"""
        if len(tokens) <= block_size:
            raise ValueError(
                f"training needs more than block_size tokens, got {len(tokens):,} for block_size "
                f"{block_size}; "
                "choose a smaller block_size or a larger dataset"
            )
        self.tokens, self.block_size, self.batch_size, self.seed = (
            tokens,
            block_size,
            batch_size,
            seed,
        )
        self.windows_per_epoch = max(1, (len(tokens) - 1) // block_size - 1)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """The number-th batch since the start: inputs and targets, int64 (batch_size,
        block_size)."""
        starts = [self._start(number * self.batch_size + row) for row in range(self.batch_size)]
        rows = np.stack([self.tokens[s : s + self.block_size + 1] for s in starts]).astype(np.int64)
        return torch.from_numpy(rows[:, :-1]), torch.from_numpy(rows[:, 1:])

    def _start(self, window: int) -> int:
        epoch, place = divmod(window, self.windows_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._shuffle(epoch))
        return int(self._order[1][place])

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng((self.seed, epoch))
        room = len(self.tokens) - 1 - self.windows_per_epoch * self.block_size
        phase = int(generator.integers(0, room + 1))
        return generator.permutation(self.windows_per_epoch) * self.block_size + phase


def full_pass(
    tokens: NDArray[np.uint16], block_size: int, batch_size: int, ignored: int, every: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Consecutive windows in which every token but the first is a target exactly once, or each
    every-th of them.

    yields: inputs and targets, int64 (up to batch_size, block_size); the last window is filled with
    `ignored`
    raises: ValueError for fewer than two tokens
    """
    if len(tokens) < 2:
        raise ValueError(f"an evaluation needs at least 2 tokens, got {len(tokens)}")
    starts = range(0, len(tokens) - 1, block_size)[::every]
    for first in range(0, len(starts), batch_size):
        spans = [
            tokens[start : start + block_size + 1] for start in starts[first : first + batch_size]
        ]
        idx = np.zeros((len(spans), block_size), dtype=np.int64)
        targets = np.full((len(spans), block_size), ignored, dtype=np.int64)
        for row, span in enumerate(spans):
            idx[row, : len(span) - 1], targets[row, : len(span) - 1] = span[:-1], span[1:]
        yield torch.from_numpy(idx), torch.from_numpy(targets)
