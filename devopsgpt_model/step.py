"""One optimizer step: learning rate, micro-batches, gradients, update. Nothing in it waits for a GPU."""

import hashlib
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.compile_policy import compile_pays
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.ranks import Ranks


class LossOf(nn.Module):
    """The network down to its loss, as a module: what torch.compile and DDP take."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """idx, targets: int64 (B, T) -> mean loss in nats/token"""
        return self.model.loss(idx, targets)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear rise over warmup_steps, then linear fall to min_learning_rate at max_steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = (config.max_steps - step) / max(1, config.max_steps - config.warmup_steps)
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left


def make_optimizer(model: GPT, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW, fused; weight decay on matrices only, not on biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


class TrainingStep:
    """The step of a run: call it with a step's number, get its loss, still on the device.

    model and optimizer are changed in place; with several ranks the model is sharded or replicated here.
    """

    def __init__(
        self, model: GPT, config: TrainingConfig, device: torch.device, autocast: torch.dtype | None, ranks: Ranks
    ) -> None:
        """raises: ValueError where the micro-batches cannot be dealt out evenly to the ranks"""
        if config.grad_accum_steps % ranks.size:
            raise ValueError(
                f"grad_accum_steps must be a multiple of the {ranks.size} processes, got {config.grad_accum_steps}"
            )
        self.model, self.config, self.device, self.autocast, self.ranks = model, config, device, autocast, ranks
        self.sharded = ranks.size > 1 and config.parallel == "fsdp"
        if self.sharded:
            ranks.shard(model, device)
        self.optimizer = make_optimizer(model, config)
        self.compiled = compile_pays(config, model, device)
        loss_of: Any = LossOf(model)
        if self.compiled:
            loss_of = torch.compile(loss_of)
        self.loss_of: Any = ranks.replicate(loss_of, device) if ranks.size > 1 and not self.sharded else loss_of

    def __call__(self, step: int, data: ShuffledWindows) -> Tensor:
        """One optimizer step. returns: this rank's mean loss, still on the device"""
        self.model.train()
        rate = learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        accum = self.config.grad_accum_steps
        mine = range(self.ranks.rank, accum, self.ranks.size)
        total = torch.zeros((), device=self.device)
        for micro in mine:
            total += self._backward(step * accum + micro, data, len(mine), micro == mine[-1])
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _backward(self, number: int, data: ShuffledWindows, parts: int, last: bool) -> Tensor:
        """Add one micro-batch's gradients; ranks exchange them with the step's last one only."""
        torch.manual_seed(_mix(self.config.seed, number))  # dropout follows from the batch: a resumed run repeats it
        idx, targets = (self._to_device(each) for each in data.batch(number))
        if self.sharded:
            cast(Any, self.model).set_requires_gradient_sync(last)
        waits = self.ranks.size > 1 and not self.sharded and not last
        with self.loss_of.no_sync() if waits else nullcontext():
            with torch.autocast(
                self.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None
            ):
                loss = self.loss_of(idx, targets)
            loss = loss / parts
            loss.backward()
        return loss.detach()

    def _to_device(self, batch: Tensor) -> Tensor:
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the previous batch's work
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch.to(self.device)


def _mix(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")
