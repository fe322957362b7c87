"""How the next token is drawn from the logits, for many sequences in few operations.

A decode step of GPT-2 124M takes some ms on a laptop, so what passes over 50,257 logits again and again shows.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 256  # weights that are added up before one of them is looked for
NUCLEUS = 256  # tokens that mostly reach top_p, and are found in a twentieth of the time of sorting 50,257
LEAST_TEMPERATURE = 1e-3  # below it the likeliest token is drawn anyway, and the division overflows


class Draw(NamedTuple):
    """How the tokens of one sequence are drawn."""

    generator: random.Random
    """Its own stream of random numbers: one for each token."""
    temperature: float = 0.8
    """0 takes the most likely token."""
    top_k: int = 0
    """How many of the most likely tokens may be drawn, 0 for all."""
    top_p: float = 1.0
    """The share of probability that the most likely tokens must reach (Holtzman et al. 2019)."""

    def check(self) -> "Draw":
        """Itself. raises: ValueError for a setting out of range"""
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be 0 (greedy) to 2, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all tokens) or more, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        return self


def sample_tokens(logits: Tensor, draws: list[Draw]) -> list[int]:
    """A token id for each row of logits (R, V), any of them; the same for a row alone as among others."""
    alike: dict[tuple[Callable[[Tensor, list[Draw]], list[int]], int], list[int]] = defaultdict(list)
    for row, draw in enumerate(draws):
        alike[_way(draw), draw.top_k].append(row)
    tokens: dict[int, int] = {}
    for (way, _), rows in alike.items():
        theirs = logits if len(rows) == len(logits) else logits[rows]
        tokens |= zip(rows, way(theirs.float(), [draws[row] for row in rows]), strict=True)
    return [tokens[row] for row in range(len(draws))]


def _way(draw: Draw) -> Callable[[Tensor, list[Draw]], list[int]]:
    """What draws so. Each takes logits (R, V) of draws with one top_k and returns a token id for each."""
    if draw.temperature < LEAST_TEMPERATURE:
        return _greedy
    if draw.top_k:
        return _from_top_k
    return _from_nucleus if draw.top_p < 1 else _from_all


def _greedy(logits: Tensor, draws: list[Draw]) -> list[int]:
    if logits.is_cuda:
        return logits.argmax(1).tolist()  # type: ignore[no-any-return]
    return logits.numpy().argmax(1).tolist()  # torch's own takes ten times as long


def _from_all(logits: Tensor, draws: list[Draw]) -> list[int]:
    return _pick(_weights(logits, draws), draws).tolist()  # type: ignore[no-any-return]


def _from_top_k(logits: Tensor, draws: list[Draw]) -> list[int]:
    kept = logits.topk(min(draws[0].top_k, logits.size(1)))
    return _pick_ordered(_weights(kept.values, draws), kept.indices, draws)


def _from_nucleus(logits: Tensor, draws: list[Draw]) -> list[int]:
    return _search(_weights(logits, draws), draws, NUCLEUS)


def _search(weights: Tensor, draws: list[Draw], size: int) -> list[int]:
    """Draw from those of the `size` largest weights that reach top_p; where these are too few, look at more."""
    kept = weights.topk(min(size, weights.size(1)))
    reached = kept.values.sum(1).tolist()
    short = [row for row, draw in enumerate(draws) if reached[row] < draw.top_p and size < weights.size(1)]
    if not short:
        return _pick_ordered(kept.values, kept.indices, draws)
    enough = [row for row in range(len(draws)) if row not in short]
    tokens = dict(zip(short, _search(weights[short], [draws[row] for row in short], 16 * size), strict=True))
    if enough:
        picked = _pick_ordered(kept.values[enough], kept.indices[enough], [draws[row] for row in enough])
        tokens |= zip(enough, picked, strict=True)
    return [tokens[row] for row in range(len(draws))]


def _weights(logits: Tensor, draws: list[Draw]) -> Tensor:
    """Probabilities at each row's temperature. logits: (R, N)"""
    return torch.softmax(logits / torch.tensor([[draw.temperature] for draw in draws], device=logits.device), dim=1)


def _pick_ordered(weights: Tensor, ids: Tensor, draws: list[Draw]) -> list[int]:
    """An id for each row out of its first ones that reach top_p. weights: (R, N), falling; ids: (R, N)"""
    if any(draw.top_p < 1 for draw in draws):
        share = torch.tensor([[draw.top_p] for draw in draws], device=weights.device)
        beyond = weights.cumsum(1) - weights >= share  # the token that crosses top_p stays
        beyond[:, 0] = False  # so does the first, however small top_p is
        weights = weights.masked_fill(beyond, 0)
    drawn: list[int] = ids.gather(1, _pick(weights, draws)[:, None])[:, 0].tolist()
    return drawn


def _pick(weights: Tensor, draws: list[Draw]) -> Tensor:
    """An index for each row of weights (R, N), as likely as its weight, from one number of each generator.

    A block of weights is picked, then one of its own: to add up 50,257 one after the other takes five times as long.
    """
    numbers = [[draw.generator.random()] for draw in draws]
    points = torch.tensor(numbers, dtype=torch.float64, device=weights.device)
    width = weights.size(1)
    whole = width // BLOCK
    if not whole:
        return _locate(weights, points)[0][:, 0]
    blocks = weights[:, : whole * BLOCK].view(len(weights), whole, BLOCK).sum(2)
    block, points = _locate(torch.cat([blocks, weights[:, whole * BLOCK :].sum(1, keepdim=True)], dim=1), points)
    ids = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(1, ids.clamp_max(width - 1)).masked_fill(ids >= width, 0)
    return (block * BLOCK + _locate(inside, points)[0])[:, 0]


def _locate(weights: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which weight of each row a point lies in, and where within it, 0..1. weights: (R, N); points: (R, 1), 0..1"""
    sums = weights.cumsum(1, dtype=torch.float64)
    total = sums[:, -1:]
    # from 0 to below the total, whatever was rounded: so a weight of 0 is never picked
    reached = torch.minimum(points.clamp_min(0) * total, total.nextafter(torch.zeros_like(total)))
    at = torch.searchsorted(sums, reached, right=True).clamp_max_(sums.size(1) - 1)
    own = weights.gather(1, at).double()
    return at, (reached - sums.gather(1, at) + own) / own
