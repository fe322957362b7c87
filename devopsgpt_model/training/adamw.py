"""AdamW in one kernel, as torch.optim.AdamW(fused=True) computes it.

torch.optim imports torch's compiler when an optimizer is made, which takes 2 s of every start, of
runs that never compile too.
"""

from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class AdamW:
    """Adam with decoupled weight decay. Its state is in the terms of torch.optim, so that saved
    ones stay readable.

    param_groups: each with its `params`, `lr` and `weight_decay`
    state: of each parameter that had a gradient: `step`, a float32 scalar, `exp_avg` and
    `exp_avg_sq`
    source: Loshchilov and Hutter 2019
    """

    name = "adamw"

    def __init__(self, param_groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        self.param_groups, self.betas = param_groups, betas
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    @property
    def moment_bytes(self) -> int:
        """What its state takes: two float32 for each weight."""
        return 8 * sum(each.numel() for group in self.param_groups for each in group["params"])

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [each for each in group["params"] if each.grad is not None]
            if not parameters:
                continue
            states = [self.state.setdefault(each, {}) or self._begin(each) for each in parameters]
            steps, means, squares = (
                [state[key] for state in states] for key in ("step", "exp_avg", "exp_avg_sq")
            )
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameters, [each.grad for each in parameters], means, squares, [], steps,
                lr=group["lr"], weight_decay=group["weight_decay"],
                beta1=self.betas[0], beta2=self.betas[1], eps=EPSILON,
                amsgrad=False, maximize=False,
            )  # fmt: skip

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for each in group["params"]:
                each.grad = None

    def _begin(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        self.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
        return self.state[parameter]
