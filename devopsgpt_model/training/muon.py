"""Muon for the blocks' matrices, AdamW for embeddings, norms and biases.

A matrix's momentum is made orthogonal before it is applied, so that every direction in it learns as
fast. torch.optim.Muon does so in bfloat16, takes no fused matrix apart and imports the compiler
(adamw.py).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from devopsgpt_model.training.adamw import AdamW
from devopsgpt_model.training.ranks import fill, whole

MOMENTUM = 0.95
# Five steps bring singular values from 0.01..1 to 0.7..1.2. source: Jordan et al. 2024
NEWTON_SCHULZ_STEPS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
# An orthogonal matrix has a mean square of 1 / max(rows, columns), AdamW's updates have about
# 0.2 ** 2: both take one learning rate and weight decay. source: Liu et al. 2025
ADAMW_SCALE = 0.2


class Muon:
    """Momentum with Nesterov, orthogonalized; what is no matrix of a block goes to AdamW.

    param_groups: Muon's, each with its `params`, `parts`, `lr` and `weight_decay`, then AdamW's;
    parts: how many matrices are stacked in each parameter, as 3 for queries, keys and values
    state: of each parameter that had a gradient: Muon's `momentum`, or what AdamW keeps
    source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon
    """

    name = "muon"

    def __init__(self, matrices: list[dict[str, Any]], rest: AdamW) -> None:
        self.matrices, self.rest = matrices, rest
        self.param_groups = [*matrices, *rest.param_groups]
        self.state = rest.state

    @property
    def moment_bytes(self) -> int:
        """What its state takes: a float32 for each weight of a matrix, AdamW's two for the rest."""
        mine = sum(each.numel() for group in self.matrices for each in group["params"])
        return 4 * mine + self.rest.moment_bytes

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.matrices:
            for each in group["params"]:
                if each.grad is not None:
                    self._update(each, each.grad, group)
        self.rest.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for each in group["params"]:
                each.grad = None

    def _update(self, matrix: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        """Sharded weights are put together for it: a matrix is orthogonal as a whole or not."""
        state = self.state.setdefault(matrix, {})
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = whole(gradient.lerp(momentum, MOMENTUM))
        ahead = ahead.reshape(group["parts"], -1, ahead.size(-1))
        direction = orthogonalized(ahead)
        rate = group["lr"] * ADAMW_SCALE * math.sqrt(max(ahead.shape[-2:]))
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(fill(matrix, direction.flatten(0, 1)), alpha=-rate)


Optimizer = AdamW | Muon


def orthogonalized(matrices: Tensor) -> Tensor:
    """Each matrix with its singular vectors and singular values of about 1, by Newton-Schulz.

    matrices: float32 (N, rows, columns); of zeros where a matrix is
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices  # the smaller square
    # gradients of queries and keys begin at 1e-6: nothing as large may be added here
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-20)
    a, b, c = COEFFICIENTS
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
