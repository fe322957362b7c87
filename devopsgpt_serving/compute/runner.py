"""The model's arithmetic for the engine: rows of a preallocated KV cache, extended by some tokens
at a time.

This is the seam for speed: another runner with the same methods may compute otherwise, captured in
CUDA graphs for example, and the engine does not notice.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from devopsgpt_model.gpt import GPT, NewTokens
from devopsgpt_model.loss import float32_logits
from devopsgpt_serving.compute.precision import Precision, pack, packable


class Runner(Protocol):
    """What the engine needs of a model. Rows are numbered from 0; all ids are token ids."""

    rows: int
    block_size: int
    device: torch.device
    reuses_answers: bool
    """Whether a token has the same keys and values in an answer as in a prompt, so that prompts may
    go on from both."""

    def prefill(self, row: int, ids: list[int], start: int, every: bool) -> Tensor:
        """Add ids to a row that holds `start` tokens. returns: logits after the last one, (1, V),
        or every, (t, V)"""

    def decode(self, ids: list[int], starts: list[int], asked: list[int] | None = None) -> Tensor:
        """Add one token to each of the first len(ids) rows.

        asked: the rows that it is for, ascending; the others may be left out. None for all
        returns: logits (len(asked), V)
        """

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let row target begin with row source's first `length` tokens."""


class EagerRunner:
    """Torch, operation by operation: on a CPU with packed weights, elsewhere with the model's own
    layers.

    Takes the model over: its layers are replaced or converted.
    """

    reuses_answers = False  # torch rounds by the shape of a product

    def __init__(self, model: GPT, rows: int, precision: Precision = "float32") -> None:
        self.model = model
        self.rows = rows
        self.block_size = model.config.block_size
        self.device = model.wte.weight.device
        if packable(self.device):
            self.head: Callable[[Tensor], Tensor] = pack(model, precision)
        else:
            model.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
            self.head = _head(model)
        # packed layers take and give float32, and torch's bfloat16 attention is slower on a CPU,
        # although it reads half
        self.cache = model.new_cache(rows)

    @torch.inference_mode()
    def prefill(self, row: int, ids: list[int], start: int, every: bool) -> Tensor:
        """Add ids to a row that holds `start` tokens. returns: logits after the last one, (1, V),
        or every, (t, V)"""
        hidden = self._extend(slice(row, row + 1), [ids], [start])[0]  # (t, C)
        return self.head(hidden if every else hidden[-1:])

    @torch.inference_mode()
    def decode(self, ids: list[int], starts: list[int], asked: list[int] | None = None) -> Tensor:
        """Add one token to each of the first len(ids) rows, from the first to the last that is
        asked for.

        returns: logits (len(asked), V)
        """
        rows = list(range(len(ids))) if asked is None else asked
        first, end = rows[0], rows[-1] + 1
        hidden = self._extend(
            slice(first, end), [[token] for token in ids[first:end]], starts[first:end]
        )[:, -1]
        if len(rows) < len(hidden):
            hidden = hidden[[row - first for row in rows]]
        return self.head(hidden)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let row target begin with row source's first `length` tokens."""
        self.cache.copy_row(source, target, length)

    def _extend(self, rows: slice, ids: list[list[int]], starts: list[int]) -> Tensor:
        """Hidden states of new tokens. ids: B lists of t. returns: (B, t, C)"""
        idx = torch.tensor(ids, device=self.device)  # (B, t)
        new = NewTokens.of(
            torch.tensor(starts, device=self.device), idx.size(1), max(starts) + idx.size(1)
        )
        return self.model.extend_hidden(idx, self.cache.rows(rows.start, rows.stop), new)


def _head(model: GPT) -> Callable[[Tensor], Tensor]:
    """Hidden states (N, C) to float32 logits (N, V)."""
    return lambda hidden: float32_logits(hidden, model.wte.weight)[:, : model.config.vocab_size]
