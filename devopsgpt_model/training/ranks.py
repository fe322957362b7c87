"""The processes of one training run: alone, or the ranks that torchrun started on one or many
machines.

Rank r takes every size-th micro-batch from r on, so that a step sees the same tokens whatever the
number of ranks.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from devopsgpt_model.device import choose_device
from devopsgpt_model.gpt import GPT

WAIT_FOR_RANKS = timedelta(minutes=30)  # rank 0 writes checkpoints while the others wait


class Ranks:
    """This process among its peers. Use as a context manager: entering joins the group, leaving
    leaves it."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def __enter__(self) -> "Ranks":
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=WAIT_FOR_RANKS)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def device(self, wanted: str) -> torch.device:
        """The device of a setting, this rank's own GPU where several are on GPUs; it becomes the
        current one.

        Nothing is asked of another GPU: a context there takes 0.5 GB, for every rank on the first.
        raises: ValueError for a device that this machine does not have
        """
        on_gpus = wanted.partition(":")[0] == "cuda" or (
            wanted == "auto" and torch.cuda.is_available()
        )
        if self.size > 1 and on_gpus:
            wanted = f"cuda:{self.local_rank}"
        device = choose_device(wanted)
        # kernels of our own and events of streams go to the current one
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)
        return device

    def shard(self, model: GPT, device: torch.device) -> None:
        """Split weights, gradients and optimizer state over the ranks, block by block (FSDP2)."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(device.type, (self.size,))
        for block in model.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")

    def replicate(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module with its gradients averaged over the ranks after each backward pass (DDP)."""
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(
            module, devices, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def sum(self, values: Tensor) -> Tensor:
        """values: of this rank, on any device. returns: their sum over all ranks, the same on
        each"""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; goes over the CPU, so that no GPU is waited for."""
        return bool(self.sum(torch.tensor(int(flag))).item())

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers."""
        smallest = torch.tensor(number)
        if self.size > 1:
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest.item())

    def meet(self) -> None:
        """Wait until every rank is here."""
        self.any(False)

    def agree(self, number: int) -> bool:
        """Whether all ranks hold the same number."""
        total = int(self.sum(torch.tensor(number)).item())
        return not self.any(total != number * self.size)


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from its shards, where it is sharded; every rank must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def fill(place: Tensor, content: Tensor) -> Tensor:
    """The content on the device of `place`, and sharded as it is. content: whole, on every rank"""
    content = content.to(place.device)
    if not hasattr(place, "full_tensor"):
        return content
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(place, DTensor):
        raise TypeError(f"fill wants a sharded tensor or a plain one, got {type(place).__name__}")
    return distribute_tensor(content, place.device_mesh, place.placements)
