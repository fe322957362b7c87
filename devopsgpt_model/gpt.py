"""The network: GPT-2 as Radford et al. 2019 describe it, with a cached decode step.

Shape legend: B sequences, T tokens, V vocabulary, C = n_embd, H = n_head, D = C / H.
Knows nothing of text, files or training.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.loss import IGNORED, HeadLoss, next_token_loss


@dataclass
class KVCache:
    """Keys and values of past tokens, preallocated: one tensor (B, H, block_size, D) per layer for
    each."""

    keys: list[Tensor]
    values: list[Tensor]

    def rows(self, first: int, last: int) -> "KVCache":
        """The cache of rows first..last-1, sharing memory with this one."""
        return KVCache([k[first:last] for k in self.keys], [v[first:last] for v in self.values])

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Overwrite row target's first `length` positions with row source's."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]


@dataclass(frozen=True)
class NewTokens:
    """Positions and mask of t new tokens in each of B rows, worked out once for all layers."""

    positions: Tensor
    """int64 (B, t)"""
    rows: Tensor
    """int64 (B, 1): 0..B-1"""
    mask: Tensor
    """bool (B, 1, t, length): which positions each new token attends to"""
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Attention of one token in each row, where a kernel computes it: (B, 3 C), keys and values,
    which it writes to, -> (B, C)"""

    @classmethod
    def of(cls, start: Tensor, count: int, length: int) -> "NewTokens":
        """start: int64 (B,), tokens that each row holds; count: t; length: largest position + 1, or
        more"""
        positions = start[:, None] + torch.arange(count, device=start.device)
        rows = torch.arange(len(start), device=start.device)[:, None]
        mask = torch.arange(length, device=start.device) <= positions[:, None, :, None]
        return cls(positions, rows, mask)


class Linear(nn.Linear):
    """A linear layer without numbers of its own choice, as torch would draw them: a second for
    124M, unused."""

    def reset_parameters(self) -> None:
        """Nothing: GPT.init_weights or a checkpoint fills it."""


class Embedding(nn.Embedding):
    """An embedding, empty as Linear is."""

    def reset_parameters(self) -> None:
        """Nothing, as Linear's."""


class Attention(nn.Module):
    """Causal self-attention over H heads.

    Dropout acts on what it adds to the residual stream, not on its weights: that would turn the
    fused kernel off.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> (B, T, C)"""
        q, k, v = self._heads(x)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._merge(y)

    def extend(self, x: Tensor, keys: Tensor, values: Tensor, new: NewTokens) -> Tensor:
        """Attention of new tokens to the cache and themselves; writes their keys and values into
        it.

        x: (B, t, C); keys, values: (B, H, block_size, D)
        """
        if new.attend is not None:
            y = new.attend(self.c_attn(x)[:, 0], keys, values)
            return F.dropout(self.c_proj(y)[:, None], self.dropout, self.training)
        q, k, v = (each.to(keys.dtype) for each in self._heads(x))
        keys[new.rows, :, new.positions] = k.transpose(1, 2)  # both (B, t, H, D)
        values[new.rows, :, new.positions] = v.transpose(1, 2)
        length = new.mask.size(-1)
        y = F.scaled_dot_product_attention(
            q, keys[:, :, :length], values[:, :, :length], attn_mask=new.mask
        )
        return self._merge(y.to(x.dtype))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        return q, k, v  # each (B, H, T, D)

    def _merge(self, y: Tensor) -> Tensor:
        B, H, T, D = y.shape
        y = self.c_proj(y.transpose(1, 2).reshape(B, T, H * D))
        return F.dropout(y, self.dropout, self.training)


def gelu(x: Tensor) -> Tensor:
    """GPT-2's GELU, approximated by tanh. x: any shape

    Compiled for a GPU it stands in its other form, x * sigmoid(2u) for x * (1 + tanh(u)) / 2: exp
    is cheaper there.
    source: Hendrycks and Gimpel 2016
    """
    if torch.compiler.is_compiling() and x.is_cuda:
        wide = x.float()
        return (wide * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))).to(
            x.dtype
        )
    return F.gelu(x, approximate="tanh")


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> (B, T, C)"""
        x = self.c_proj(gelu(self.c_fc(x)))
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and added to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y

    def extend(self, x: Tensor, keys: Tensor, values: Tensor, new: NewTokens) -> Tensor:
        x = x + self.attn.extend(self.ln_1(x), keys, values, new)
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class GPT(nn.Module):
    """GPT-2. Parameter names are Hugging Face's; matrices are (out, in), as nn.Linear keeps them.

    Embedding and output head share one matrix of padded_vocab_size rows; logits have vocab_size
    columns. A new one is empty: init_weights, import_weights or load_state_dict fills it.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.padded_vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd)
        blocks: Any = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.h: list[Block] = blocks
        self.ln_f = nn.LayerNorm(config.n_embd)

    def init_weights(self, seed: int) -> "GPT":
        """GPT-2's initial weights: N(0, 0.02), residual projections scaled by 1/sqrt(2 * n_layer),
        biases 0."""
        generator = torch.Generator(self.wte.weight.device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(
                    parameter, 1.0 if "ln_" in name and name.endswith("weight") else 0.0
                )
                continue
            std = (
                0.02 / math.sqrt(2 * self.config.n_layer)
                if name.endswith("c_proj.weight")
                else 0.02
            )
            nn.init.normal_(parameter, std=std, generator=generator)
        return self

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Next-token logits, and the mean loss when targets are given.

        idx, targets: int64 (B, T), T <= block_size; targets of IGNORED count towards no loss
        returns: logits (B, T, vocab_size); loss in nats/token, or None
        raises: ValueError if T > block_size
        source: Radford et al. 2019
        """
        logits = self.logits(self.hidden(idx))
        if targets is None:
            return logits, None
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED
        )
        return logits, loss

    def loss(self, idx: Tensor, targets: Tensor, head_loss: HeadLoss = next_token_loss) -> Tensor:
        """The mean loss alone, in nats/token, as `forward` gives it, in less memory. idx, targets:
        int64 (B, T)"""
        return head_loss(self.hidden(idx), self.wte.weight, targets, self.config.vocab_size)

    def hidden(self, idx: Tensor) -> Tensor:
        """idx: int64 (B, T) -> final normalized residual stream (B, T, C)"""
        T = idx.size(1)
        if self.config.block_size < T:
            raise ValueError(
                f"a sequence has at most {self.config.block_size} tokens (block_size), got {T}"
            )
        x = self.wte(idx) + self.wpe.weight[:T]
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = block(x)
        final: Tensor = self.ln_f(x)
        return final

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: (..., C) -> (..., vocab_size); the padded rows never take part."""
        return F.linear(hidden, self.wte.weight)[..., : self.config.vocab_size]

    def new_cache(self, rows: int) -> KVCache:
        """An empty cache for `rows` sequences of up to block_size tokens."""
        shape = (rows, self.config.n_head, self.config.block_size, self.config.head_dim)
        like = self.wte.weight

        def empty() -> list[Tensor]:
            return [torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in self.h]

        return KVCache(empty(), empty())

    def extend(self, idx: Tensor, cache: KVCache, start: Tensor) -> Tensor:
        """Logits after the last of t new tokens, row by row, their keys and values added to the
        cache.

        idx: int64 (B, t); cache: of B rows; start: int64 (B,), how many tokens of each row it
        already holds
        returns: (B, vocab_size)
        raises: ValueError where a row would outgrow block_size
        """
        length = int(start.max()) + idx.size(1)
        if length > self.config.block_size:
            raise ValueError(
                f"a sequence has at most {self.config.block_size} tokens (block_size), got {length}"
            )
        return self.logits(
            self.extend_hidden(idx, cache, NewTokens.of(start, idx.size(1), length))[:, -1]
        )

    def extend_hidden(self, idx: Tensor, cache: KVCache, new: NewTokens) -> Tensor:
        """Final normalized residual stream of new tokens. idx: int64 (B, t); returns: (B, t, C)"""
        x = self.wte(idx) + self.wpe(new.positions)
        for block, keys, values in zip(self.h, cache.keys, cache.values, strict=True):
            x = block.extend(x, keys, values, new)
        hidden: Tensor = self.ln_f(x)
        return hidden
