"""How the next token is drawn from the logits, for many sequences in few operations.

A decode step of GPT-2 124M takes some ms on a laptop, so what passes over 50,257 logits again and
again shows.
"""

import random
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 256  # weights that are added up before one of them is looked for
LEAST_TEMPERATURE = 1e-3  # below it the likeliest token is drawn anyway, and the division overflows


class SamplingParams(NamedTuple):
    """How the tokens of one sequence are drawn."""

    generator: random.Random
    """Its own stream of random numbers."""
    temperature: float = 0.8
    """0 takes the most likely token."""
    top_k: int = 0
    """How many of the most likely tokens may be drawn, 0 for all."""
    top_p: float = 1.0
    """The share of probability that the most likely tokens must reach (Holtzman et al. 2019); those
    alike stay; 0 leaves the likeliest."""
    min_p: float = 0.0
    """The least probability of a token that may be drawn, as a share of the likeliest one's (Nguyen
    et al. 2024)."""

    def check(self) -> "SamplingParams":
        """Itself. raises: ValueError for a setting out of range"""
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature must be 0 (greedy) to 2, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all tokens) or more, got {self.top_k}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be 0 (the likeliest token) to 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be 0 (all tokens) to 1, got {self.min_p}")
        return self


def random_stream(seed: int) -> random.Random:
    """The stream of random numbers of a seed: any whole number."""
    # all its digits count: of a number the sign does not, and neighbours begin alike
    return random.Random(str(seed))


def sample_tokens(logits: Tensor, params: list[SamplingParams]) -> list[int]:
    """A token id for each row of logits (R, V), any of them; the same for a row alone as among
    others.

    On a GPU up to the rounding of sums, whose order there depends on R.
    raises: ValueError for more or fewer params than rows
    """
    if len(params) != len(logits):
        raise ValueError(
            f"each row of logits needs its SamplingParams: {len(logits)} rows, {len(params)} params"
        )
    alike: dict[tuple[bool, int], list[int]] = defaultdict(list)
    for row, one in enumerate(params):
        alike[one.temperature < LEAST_TEMPERATURE, one.top_k].append(row)
    tokens: dict[int, int] = {}
    for (greedy, top_k), rows in alike.items():
        theirs = _rows(logits, rows).float()
        ids = _likeliest(theirs) if greedy else _drawn(theirs, top_k, [params[row] for row in rows])
        tokens |= zip(rows, ids, strict=True)
    return [tokens[row] for row in range(len(params))]


def _rows(tensor: Tensor, rows: list[int]) -> Tensor:
    return tensor if len(rows) == len(tensor) else tensor[rows]


def _likeliest(logits: Tensor) -> list[int]:
    if logits.device.type == "cpu":
        return logits.numpy().argmax(1).tolist()  # torch's own takes ten times as long
    return logits.argmax(1).tolist()  # type: ignore[no-any-return]


def _drawn(logits: Tensor, top_k: int, params: list[SamplingParams]) -> list[int]:
    """A token id for each row out of its top_k likeliest, 0 for all. logits: (R, V)"""
    kept = logits.topk(min(top_k, logits.size(1))) if top_k else None
    degrees = torch.tensor([[one.temperature] for one in params], device=logits.device)
    weights = torch.softmax((logits if kept is None else kept.values) / degrees, dim=1)
    if rows := [row for row, one in enumerate(params) if one.min_p > 0]:
        weights[rows] = _above_min_p(weights[rows], [params[row].min_p for row in rows])
    picked = _pick(weights, params)
    if rows := [row for row, one in enumerate(params) if one.top_p < 1]:
        picked[rows] = _repick(_rows(weights, rows), picked[rows], [params[row] for row in rows])
    ids = picked if kept is None else kept.indices.gather(1, picked[:, None])[:, 0]
    return ids.tolist()  # type: ignore[no-any-return]


def _above_min_p(weights: Tensor, shares: list[float]) -> Tensor:
    """The weights that reach a share of their row's largest, adding up to 1 again. weights: (R,
    N)"""
    least = weights.amax(1, keepdim=True) * torch.tensor(shares, device=weights.device)[:, None]
    kept = weights.where(weights >= least, 0)
    return kept / kept.sum(1, keepdim=True)


def _repick(weights: Tensor, picked: Tensor, params: list[SamplingParams]) -> Tensor:
    """What was picked, where it is one of the largest weights that reach top_p, else a pick of
    those.

    Without sorting: it is one of them where the larger weights do not reach top_p. Where they do,
    no smaller weight is one either, so the next pick is out of the larger ones. weights: (R, N);
    picked: (R,)
    """
    larger = weights.where(weights > weights.gather(1, picked[:, None]), 0)
    sums = _block_sums(larger).sum(1, dtype=torch.float64)
    enough = torch.tensor([one.top_p for one in params], dtype=torch.float64, device=weights.device)
    # nothing is larger than the largest, however small top_p is
    rows = ((sums >= enough) & (sums > 0)).nonzero()[:, 0]
    if len(rows):
        fewer, theirs = larger[rows], [params[row] for row in rows.tolist()]
        picked[rows] = _repick(fewer, _pick(fewer, theirs), theirs)
    return picked


def _pick(weights: Tensor, params: list[SamplingParams]) -> Tensor:
    """An index for each row of weights (R, N), as likely as its weight.

    A block of weights is picked, then one of its own: to add up 50,257 one after the other takes
    five times as long.
    """
    numbers = [[one.generator.random()] for one in params]
    points = torch.tensor(numbers, dtype=torch.float64, device=weights.device)
    if weights.size(1) <= BLOCK:
        return _locate(weights, points)[0][:, 0]
    block, points = _locate(_block_sums(weights), points)
    last = weights.size(1) - 1
    ids = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(1, ids.clamp_max(last)).masked_fill(ids > last, 0)
    # weights that are no numbers are nowhere found, and must not lead out of the vocabulary
    return (block * BLOCK + _locate(inside, points)[0])[:, 0].clamp_max(last)


def _block_sums(weights: Tensor) -> Tensor:
    """Sums of BLOCK weights each, the last one of those that are left. weights: (R, N)"""
    whole = weights.size(1) // BLOCK
    blocks = weights[:, : whole * BLOCK].view(len(weights), whole, BLOCK)
    return torch.cat([blocks.sum(2), weights[:, whole * BLOCK :].sum(1, keepdim=True)], dim=1)


def _locate(weights: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which weight of each row a point lies in, and where within it, 0..1. weights: (R, N); points:
    (R, 1), 0..1"""
    sums = weights.cumsum(1, dtype=torch.float64)
    # less than the whole, however it is rounded: so a weight of 0 is never picked
    reached = points.clamp(0, 1 - 2**-52) * sums[:, -1:]
    at = torch.searchsorted(sums, reached, right=True).clamp_max_(sums.size(1) - 1)
    own = weights.gather(1, at).double()
    return at, (reached - sums.gather(1, at) + own) / own
