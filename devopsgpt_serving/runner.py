"""The model's arithmetic for the engine: rows of a preallocated KV cache, extended by some tokens at a time.

This is the seam for speed: another runner with the same three methods may compute in bf16 or int8, compiled
or captured, and the engine does not notice.
"""

from typing import Protocol

import torch
from torch import Tensor

from devopsgpt_model.gpt import GPT


class Runner(Protocol):
    """What the engine needs of a model. Rows are numbered from 0; all ids are token ids."""

    rows: int
    block_size: int
    device: torch.device

    def prefill(self, row: int, ids: list[int], start: int, every: bool) -> Tensor:
        """Add ids to a row that holds `start` tokens. returns: logits after the last one, (1, V), or every, (t, V)"""
        ...

    def decode(self, ids: list[int], starts: list[int]) -> Tensor:
        """Add one token to each of the first len(ids) rows. returns: logits (len(ids), V)"""
        ...

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let row target begin with row source's first `length` tokens."""
        ...


class EagerRunner:
    """Plain torch, in the model's own number format."""

    def __init__(self, model: GPT, rows: int) -> None:
        self.model = model
        self.rows = rows
        self.block_size = model.config.block_size
        self.device = model.wte.weight.device
        self.cache = model.new_cache(rows)

    @torch.inference_mode()
    def prefill(self, row: int, ids: list[int], start: int, every: bool) -> Tensor:
        """Add ids to a row that holds `start` tokens. returns: logits after the last one, (1, V), or every, (t, V)"""
        hidden = self._extend(slice(row, row + 1), [ids], [start])[0]  # (t, C)
        return self.model.logits(hidden if every else hidden[-1:])

    @torch.inference_mode()
    def decode(self, ids: list[int], starts: list[int]) -> Tensor:
        """Add one token to each of the first len(ids) rows. returns: logits (len(ids), V)"""
        hidden = self._extend(slice(0, len(ids)), [[token] for token in ids], starts)
        return self.model.logits(hidden[:, -1])

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let row target begin with row source's first `length` tokens."""
        self.cache.copy_row(source, target, length)

    def _extend(self, rows: slice, ids: list[list[int]], starts: list[int]) -> Tensor:
        """Hidden states of new tokens. ids: B lists of t. returns: (B, t, C)"""
        idx = torch.tensor(ids, device=self.device)  # (B, t)
        begin = torch.tensor(starts, device=self.device)[:, None]
        positions = begin + torch.arange(idx.size(1), device=self.device)  # (B, t)
        length = max(starts) + idx.size(1)
        cache = self.cache.rows(rows.start, rows.stop)
        x = self.model.wte(idx) + self.model.wpe(positions)
        for block, keys, values in zip(self.model.h, cache.keys, cache.values, strict=True):
            x = block.extend(x, keys, values, positions, length)
        hidden: Tensor = self.model.ln_f(x)
        return hidden
