"""The loss of next tokens without the float32 logits of all of them, faster than what compilers
make of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from devopsgpt_model.device import has_triton

HeadLoss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
IGNORED = -1  # targets with this id count towards no loss
ROWS = 64  # tokens, 13 MB of float32 at a time: of 32, evaluations' products took a quarter longer
GPU_ROWS = 4096  # a GPU waits for many small pieces
# tokens whose float32 logits are held at once; 256 took 4% longer at 1,024 tokens, 512 as long as
# all
PIECE = 512


def next_token_loss(hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Mean loss in nats/token of the output head's logits.

    hidden: (..., C); weight: (V, C), its rows from vocab_size on never take part; targets: int64
    (...)

    Columns of padding are masked, not cut off: a GPU reads and multiplies rows of 50,304 far faster
    than of 50,257.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    head_loss: Any = _HeadLossInPieces if _arithmetic(hidden) == torch.float32 else _HeadLoss
    loss: Tensor = head_loss.apply(hidden, weight, targets, vocab_size)
    return loss


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Loss in nats of each token, 0 where the target is IGNORED, for evaluations: without
    gradients.

    hidden: (..., C); weight: (V, C); targets: int64 (...); returns: float32 (N,), the tokens one
    after another
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    pairs = zip(
        *(torch.split(each, GPU_ROWS if hidden.is_cuda else ROWS) for each in (hidden, targets)),
        strict=True,
    )

    dtype = _arithmetic(hidden)
    head = weight.to(dtype)

    def losses(rows: Tensor, target: Tensor) -> Tensor:
        logits = float32_logits(rows.to(dtype), head)[:, :vocab_size]
        return F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")

    return torch.cat([losses(*pair) for pair in pairs])


def float32_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """The head's logits, without gradients: on CUDA a product of bfloat16 is summed and written in
    float32.

    Rounded to bfloat16, logits near -110 are 0.25 off: losses of evaluations are, too, and the
    highest ones are often equal. A CPU has no such product, and rounds.
    hidden: (N, C); weight: (V, C), of one format; returns: float32 (N, V)
    """
    if hidden.is_cuda and hidden.dtype != torch.float32:
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    return F.linear(hidden, weight).float()


class _HeadLoss(torch.autograd.Function):
    """Head, softmax and loss in one: the logits' memory, in the format of the arithmetic, takes
    their gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int
    ) -> Tensor:
        dtype = _arithmetic(hidden)
        low, head = hidden.detach().to(dtype), weight.detach().to(dtype)
        logits = low @ head.t()  # (N, V)
        total = _kernel_for(hidden.device)(logits, targets, _share(targets), vocab_size)
        ctx.save_for_backward(low, head, logits)
        ctx.formats = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        low, head, logits = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.formats
        of_hidden = (logits @ head).to(hidden_dtype) * gradient
        of_weight = torch.empty(head.shape, dtype=weight_dtype, device=low.device)
        torch.mul(logits.t() @ low, gradient, out=of_weight)
        return of_hidden, of_weight, None, None


class _HeadLossInPieces(torch.autograd.Function):
    """The same in float32, whose logits are too large to be held: both gradients are made with the
    loss, by pieces."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, vocab_size: int
    ) -> Tensor:
        hidden, head = hidden.detach(), weight.detach()
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(head)
        total, kernel = torch.zeros((), device=hidden.device), _kernel_for(hidden.device)
        size = GPU_ROWS if hidden.is_cuda else PIECE
        pieces = (torch.split(each, size) for each in (hidden, of_hidden, targets, _share(targets)))
        for rows, of_rows, target, share in zip(*pieces, strict=True):
            logits = rows @ head.t()
            total += kernel(logits, target, share, vocab_size)
            torch.mm(logits, head, out=of_rows)
            of_weight.addmm_(logits.t(), rows)
        ctx.save_for_backward(of_hidden, of_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * gradient, of_weight * gradient, None, None


def _arithmetic(hidden: Tensor) -> torch.dtype:
    """The number format that a matrix product with these would take."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _share(targets: Tensor) -> Tensor:
    """Of each token in the mean. targets: (N,) -> float32 (N,)"""
    counts = targets != IGNORED
    return counts / counts.sum()


def loss_and_gradient_(logits: Tensor, targets: Tensor, share: Tensor, vocab_size: int) -> Tensor:
    """Overwrite logits with the gradient of the loss in them. returns: the loss, in nats

    logits: (N, V), columns from vocab_size on are padding; targets: int64 (N,); share: float32
    (N,), what each token's loss counts, 0 for one without a target
    """
    total = torch.zeros((), device=logits.device)
    logits[:, vocab_size:] = float("-inf")
    buffer = torch.empty(ROWS, logits.shape[1], device=logits.device)
    for rows, target, part in zip(
        *(torch.split(each, ROWS) for each in (logits, targets, share)), strict=True
    ):
        at, part = target.clamp(min=0)[:, None], part[:, None]
        full = rows if rows.dtype == torch.float32 else buffer[: len(rows)].copy_(rows)
        highest, wanted = full.amax(-1, keepdim=True), full.gather(1, at)
        torch.softmax(full, -1, out=full)
        # of the highest logit: the probability of a target may be too small for a float32
        total += ((highest - full.amax(-1, keepdim=True).log() - wanted) * part).sum()
        full.mul_(part).scatter_add_(1, at, -part)
        if full is not rows:
            rows.copy_(full)
    return total


def _kernel_for(device: torch.device) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """What computes loss_and_gradient_ there."""
    if has_triton(device):
        from devopsgpt_model.kernels import loss as kernels

        return kernels.loss_and_gradient_
    return loss_and_gradient_
