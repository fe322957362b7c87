"""One optimizer step: learning rate, micro-batches, gradients, update. Nothing in it waits for a
GPU."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.device import autocast, has_triton, send
from devopsgpt_model.gpt import GPT, Block
from devopsgpt_model.shutdown import NEVER, Stopped, StopRequest
from devopsgpt_model.training.adamw import AdamW
from devopsgpt_model.training.compile_policy import compile_pays
from devopsgpt_model.training.micro_batches import micro_batches_at_once
from devopsgpt_model.training.muon import Muon, Optimizer
from devopsgpt_model.training.ranks import Ranks

Layer = Callable[[Tensor], Tensor]


class LossOf(nn.Module):
    """The network down to its loss, as a module: what DDP takes.

    compiled: the blocks are, each for itself. All are the same code, so that 48 layers compile as
    fast as one, and FSDP finds its hooks between them. The head's loss is faster without (loss.py),
    and evaluations need no gradients.
    """

    def __init__(self, model: GPT, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        if compiled:
            # tiles of the compiler's kernels are tried out on a GPU; a CPU has none to try
            tuned: dict[str, Any] = {"coordinate_descent_tuning": True}
            options = tuned if model.wte.weight.is_cuda else None
            run_block = torch.compile(Block.forward, fullgraph=True, options=options)
            for block in model.h:
                cast(Any, block).forward = _with_gradients(partial(run_block, block), block.forward)

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """idx, targets: int64 (B, T) -> mean loss in nats/token"""
        return self.model.loss(idx, targets)


def _with_gradients(compiled: Layer, eager: Layer) -> Layer:
    return lambda x: compiled(x) if torch.is_grad_enabled() else eager(x)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear rise over warmup_steps, then linear fall to min_learning_rate at max_steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = (config.max_steps - step) / max(1, config.max_steps - config.warmup_steps)
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left


def make_optimizer(model: GPT, config: TrainingConfig) -> Optimizer:
    """The `optimizer` setting; weight decay on matrices only, not on biases and norms."""
    matrices = {name: p for name, p in model.named_parameters() if p.dim() >= 2}
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decaying = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    of_blocks = (
        [name for name in matrices if name.startswith("h.")] if config.optimizer == "muon" else []
    )
    muons = [
        # queries, keys and values lie in one matrix and learn apart
        {"params": [matrices.pop(name)], "parts": 3 if "c_attn" in name else 1, **decaying}
        for name in of_blocks
    ]
    adamw = AdamW(
        [
            {"params": list(matrices.values()), **decaying},
            {"params": vectors, "lr": config.learning_rate, "weight_decay": 0.0},
        ],
        (config.beta1, config.beta2),
    )
    return Muon(muons, adamw) if muons else adamw


class TrainingStep:
    """The step of a run: call it with a step's number, get its loss, still on the device.

    model and optimizer are changed in place; with several ranks the model is sharded or replicated
    here.
    """

    def __init__(
        self,
        model: GPT,
        config: TrainingConfig,
        device: torch.device,
        dtype: torch.dtype | None,
        ranks: Ranks,
    ) -> None:
        """raises: ValueError where the micro-batches cannot be dealt out evenly to the ranks"""
        if config.grad_accum_steps % ranks.size:
            raise ValueError(
                f"grad_accum_steps must be a multiple of the {ranks.size} processes, got "
                f"{config.grad_accum_steps}"
            )
        self.model, self.config, self.device, self.dtype, self.ranks = (
            model,
            config,
            device,
            dtype,
            ranks,
        )
        self.sharded = ranks.size > 1 and config.parallel == "fsdp"
        if self.sharded:
            ranks.shard(model, device)
        self.optimizer = make_optimizer(model, config)
        # on a GPU the compiler writes for Triton
        able = config.compile == "on" or device.type != "cuda" or has_triton(device)
        self.compiled = able and compile_pays(config, model, device, dtype)
        shards = ranks.size if self.sharded else 1
        at_once = micro_batches_at_once(
            *(config, model, self.optimizer, device),
            *(config.grad_accum_steps // ranks.size, shards, dtype),
        )
        # shards are gathered in step: every rank makes the same passes
        self.at_once = ranks.least(at_once)
        loss_of = LossOf(model, self.compiled)
        self.loss_of: Any = (
            ranks.replicate(loss_of, device) if ranks.size > 1 and not self.sharded else loss_of
        )

    def __call__(self, step: int, data: ShuffledWindows, stop: StopRequest = NEVER) -> Tensor:
        """One optimizer step. returns: this rank's mean loss, still on the device

        raises: Stopped where a rank was told to, between two passes: weights and moments are as
        before the step
        """
        self.model.train()
        rate = learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        accum = self.config.grad_accum_steps
        mine = [step * accum + micro for micro in range(self.ranks.rank, accum, self.ranks.size)]
        passes = [mine[i : i + self.at_once] for i in range(0, len(mine), self.at_once)]
        total = torch.zeros((), device=self.device)
        for numbers in passes:
            if self.ranks.any(stop.made):
                raise Stopped
            total += self._backward(numbers, data, len(passes), numbers is passes[-1])
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _backward(
        self, numbers: list[int], data: ShuffledWindows, parts: int, last: bool
    ) -> Tensor:
        """Add the gradients of micro-batches in one pass; ranks exchange them with the step's last
        pass only."""
        # dropout follows from the batch: a resumed run repeats it
        torch.manual_seed(_mix(self.config.seed, numbers[0]))
        batches = zip(*(data.batch(number) for number in numbers), strict=True)
        idx, targets = (send(torch.cat(each), self.device) for each in batches)
        if self.sharded:
            cast(Any, self.model).set_requires_gradient_sync(last)
        waits = self.ranks.size > 1 and not self.sharded and not last
        with self.loss_of.no_sync() if waits else nullcontext():
            with autocast(self.device, self.dtype):
                loss = self.loss_of(idx, targets)
            loss = loss / parts
            loss.backward()
        return loss.detach()


def _mix(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")
