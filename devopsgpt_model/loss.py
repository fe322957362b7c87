"""The loss of next tokens without the float32 logits of all of them, for steps that no compiler fuses."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORED = -1  # targets with this id count towards no loss
ROWS = 256  # 256 tokens * 50,257 * 4 bytes = 51 MB of float32 at a time


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Mean loss in nats/token of the output head's logits.

    hidden: (..., C); weight: (V, C), its rows from vocab_size on never take part; targets: int64 (...)
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    if torch.compiler.is_compiling():  # the compiler fuses this form itself
        logits = F.linear(hidden, weight)[:, :vocab_size]
        return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED)
    loss: Tensor = _HeadLoss.apply(hidden, weight, targets, vocab_size)  # type: ignore[no-untyped-call]
    return loss


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss in nats of each token, 0 where the target is IGNORED. logits: (N, V); targets: int64 (N,)"""
    pairs = zip(torch.split(logits, ROWS), torch.split(targets, ROWS), strict=True)
    return torch.cat([F.cross_entropy(row.float(), t, ignore_index=IGNORED, reduction="none") for row, t in pairs])


class _HeadLoss(torch.autograd.Function):
    """Head, softmax and loss in one: the logits' memory, in the format of the arithmetic, takes their gradient."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        low, head = hidden.detach().to(dtype), weight.detach()[:vocab_size].to(dtype)
        logits = low @ head.t()  # (N, vocab_size)
        share = (targets != IGNORED) / (targets != IGNORED).sum()  # of each token in the mean
        total = torch.zeros((), device=hidden.device)
        for rows, target, part in zip(*(torch.split(each, ROWS) for each in (logits, targets, share)), strict=True):
            place = target.clamp(min=0)[:, None]
            log_p = torch.log_softmax(rows, -1, dtype=torch.float32)
            total -= (log_p.gather(1, place)[:, 0] * part).sum()
            gradient = log_p.exp_().mul_(part[:, None])
            rows.copy_(gradient.scatter_add_(1, place, -part[:, None]))
        ctx.save_for_backward(low, head, logits)
        ctx.weight_shape, ctx.formats = weight.shape, (hidden.dtype, weight.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        low, head, logits = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.formats
        of_hidden = (logits @ head).to(hidden_dtype) * gradient
        of_weight = torch.empty(ctx.weight_shape, dtype=weight_dtype, device=low.device)
        torch.mul(logits.t() @ low, gradient, out=of_weight[: len(head)])
        of_weight[len(head) :] = 0
        return of_hidden, of_weight, None, None
