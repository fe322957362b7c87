"""The softmax of the output head's logits, its loss and its gradient, in one pass of a GPU over its
memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 4096, 8  # columns at a time, and how many warps share them; the fastest measured


@triton.jit  # type: ignore[untyped-decorator]
def _row(  # type: ignore[no-untyped-def]
    logits, targets, share, losses, vocab_size, width, stride, BLOCK: tl.constexpr
):
    """One token: a first way over its row for the softmax's denominator, a second that leaves the
    gradient there.

    What is loaded is bounded by the padded width, a multiple of 16, and the padding left out after
    it: bounded by 50,257, an odd number, a load takes 2 bytes at a time in place of 16.
    """
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    target, part = tl.load(targets + row), tl.load(share + row)
    top, total, chosen = -1e30, 0.0, 0.0
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        x = tl.load(start + columns, mask=columns < width, other=-float("inf")).to(tl.float32)
        x = tl.where(columns < vocab_size, x, -float("inf"))
        higher = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(x - higher), 0)
        chosen += tl.sum(tl.where(columns == target, x, 0.0), 0)
        top = higher
    log_total = top + tl.log(total)
    tl.store(losses + row, (log_total - chosen) * part)
    for first in range(0, width, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        x = tl.load(start + columns, mask=columns < width, other=-float("inf")).to(tl.float32)
        x = tl.where(columns < vocab_size, x, -float("inf"))
        gradient = (tl.exp(x - log_total) - tl.where(columns == target, 1.0, 0.0)) * part
        tl.store(start + columns, gradient.to(logits.dtype.element_ty), mask=columns < width)


def loss_and_gradient_(logits: Tensor, targets: Tensor, share: Tensor, vocab_size: int) -> Tensor:
    """As loss.loss_and_gradient_, on a GPU."""
    losses = torch.empty(len(logits), device=logits.device)
    sizes = vocab_size, logits.size(1), logits.stride(0)
    _row[(len(logits),)](logits, targets, share, losses, *sizes, BLOCK=BLOCK, num_warps=WARPS)
    return losses.sum()
