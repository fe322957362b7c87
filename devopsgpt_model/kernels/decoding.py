"""Attention of a decode step that reads what each row holds, not the whole context.

One launch of one shape, so that a graph can hold it: a program looks at its row's length and leaves
at once where there is nothing to read. A row's numbers depend on its own tokens alone: pieces of
SPLIT places from 0 on, each summed in the same order and put together in the same order, whatever
other rows do.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLIT = 128  # places that one program reads
WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _piece(  # type: ignore[no-untyped-def]
    qkv, keys, values, starts, partial, scale, places, pieces,
    H: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Program (row, head, piece): softmax(q k) v over SPLIT places, not yet divided; the one that
    reaches the new token writes its key and value."""
    row, head, piece = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = tl.load(starts + row)
    if piece * SPLIT <= at:
        d, place = tl.arange(0, D), piece * SPLIT + tl.arange(0, SPLIT)
        new = qkv + row * 3 * H * D + head * D + d
        q = tl.load(new).to(tl.float32)
        k_new, v_new = tl.load(new + H * D), tl.load(new + 2 * H * D)
        base = (row * H + head).to(tl.int64) * places * D
        inside = place[:, None] < at
        k = tl.load(keys + base + place[:, None] * D + d[None], mask=inside, other=0.0)
        v = tl.load(values + base + place[:, None] * D + d[None], mask=inside, other=0.0)
        last = place[:, None] == at
        k = tl.where(last, k_new[None], k).to(tl.float32)
        v = tl.where(last, v_new[None], v).to(tl.float32)
        scores = tl.where(place <= at, tl.sum(q[None] * k, 1) * scale, -float("inf"))
        top = tl.max(scores, 0)
        weights = tl.exp(scores - top)
        out = partial + ((row * H + head) * pieces + piece) * (D + 2)
        tl.store(out + d, tl.sum(weights[:, None] * v, 0))
        tl.store(out + D, top)
        tl.store(out + D + 1, tl.sum(weights, 0))
        if at // SPLIT == piece:
            tl.store(keys + base + at * D + d, k_new)
            tl.store(values + base + at * D + d, v_new)


@triton.jit  # type: ignore[untyped-decorator]
def _together(  # type: ignore[no-untyped-def]
    partial, starts, y, pieces, H: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr
):
    """Program (row, head): the pieces' weighted mean, one after the other."""
    row, head = tl.program_id(0), tl.program_id(1)
    at, d = tl.load(starts + row), tl.arange(0, D)
    top, total, mean = -1e30, 0.0, tl.zeros((D,), tl.float32)
    for piece in range(0, (tl.maximum(at, -1) + SPLIT) // SPLIT):
        out = partial + ((row * H + head) * pieces + piece) * (D + 2)
        its_top, its_total = tl.load(out + D), tl.load(out + D + 1)
        higher = tl.maximum(top, its_top)
        old, new = tl.exp(top - higher), tl.exp(its_top - higher)
        total = total * old + its_total * new
        mean = mean * old + tl.load(out + d) * new
        top = higher
    tl.store(
        y + row * H * D + head * D + d, (mean / tl.where(at < 0, 1.0, total)).to(y.dtype.element_ty)
    )


def able(head_dim: int) -> bool:
    """Whether the kernel knows this shape: Triton's ranges are powers of two."""
    return head_dim >= 16 and head_dim.bit_count() == 1


def attend(qkv: Tensor, keys: Tensor, values: Tensor, starts: Tensor) -> Tensor:
    """Attention of one new token in each row to what the row holds and itself; its key and value
    are written to the cache.

    qkv: (B, 3 C), contiguous; keys, values: (B, H, block_size, D); starts: int64 (B,), tokens that
    each row holds, less than block_size; -1 for a row that nobody asked for, which takes no time
    returns: (B, C), zeros for such a row
    """
    B, H, places, D = keys.shape
    pieces = -(-places // SPLIT)
    partial = torch.empty(B, H, pieces, D + 2, device=qkv.device)
    y = torch.empty(B, H * D, dtype=qkv.dtype, device=qkv.device)
    shape = {"H": H, "D": D, "SPLIT": SPLIT}
    _piece[B, H, pieces](
        qkv, keys, values, starts, partial, D**-0.5, places, pieces, **shape, num_warps=WARPS
    )
    _together[B, H](partial, starts, y, pieces, **shape, num_warps=1)
    return y
