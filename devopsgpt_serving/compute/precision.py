"""Number formats, and linear layers for a CPU without compiled code: no g++, no AVX2, or a shape
that the code does not know.

Their weights are laid out for oneDNN once, when a model is loaded; torch.nn.functional.linear lays
them out anew at every call, or multiplies without vector units. In float32 that costs a third of
the tokens at 8 sequences, and nothing at 1 (GPT-2 124M, 2 cores: 58 for 85, and 19 for 19 a
second). On a CPU, what stands between the linear layers stays in float32 in every format. On CUDA
nothing is replaced: in bfloat16 the whole network is, residual stream and cache too, all but its
logits.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from devopsgpt_model.device import cpu_instructions
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.compute.native.processor import has_code

Precision = Literal["float32", "bfloat16", "int8"]

# rows of a typical decode step; measured as fast or faster than 1 for every batch from 1 to 32
LAYOUT_ROWS = 8
# 127 * 256: largest magnitude of an activation in 16 bits, so that its upper byte stays in range
LEVELS = 32512
OFFSET = 128  # oneDNN takes activations as unsigned bytes around this zero point


class PackedLinear(nn.Module):
    """A linear layer in float32 or bfloat16, its weights in oneDNN's layout; float32 in and out."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach().to(dtype), LAYOUT_ROWS
        )
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) -> (..., out)"""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.weight, self.bias, "none", [], ""
        )
        return y.float()


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights, a scale for each output, and 16-bit activations, a scale
    for each token.

    Both bytes of an activation are rows of one matrix product, so the weights are read once; sums
    are exact integers until they are scaled, so a sequence's numbers do not depend on what else is
    in the batch.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        self.scale = weight.abs().amax(1).clamp_min(1e-12) / 127  # (out,)
        whole = (weight / self.scale[:, None]).round_().to(torch.int8)
        self.weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self.middle = torch.tensor(OFFSET * 257 + 0.5)  # truncation after + 0.5 rounds
        self.zero = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in) -> (..., out)"""
        rows = x.reshape(-1, x.size(-1))  # (R, in)
        # (R, 1)
        largest = torch.linalg.vector_norm(rows, float("inf"), dim=1, keepdim=True).clamp_min_(
            1e-12
        )
        # 256 * (upper - 128) + (lower - 128) = level, where level + 128 * 256 + 128 = 256 * upper +
        # lower
        level = torch.add(self.middle, rows / largest, alpha=LEVELS).to(torch.int32)
        both = (
            level.view(torch.uint8)
            .view(*rows.shape, 4)[..., :2]
            .permute(2, 0, 1)
            .reshape(-1, rows.size(1))
        )
        y = torch.ops.onednn.qlinear_pointwise(
            both,
            1.0,
            OFFSET,
            self.weight,
            self.scale,
            self.zero,
            None,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )
        lower, upper = y.chunk(2)  # little-endian
        y = torch.addcmul(self.bias, torch.add(lower, upper, alpha=256), largest, value=1 / LEVELS)
        return y.view(*x.shape[:-1], -1)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The number format to compute in. wanted: one of Precision, or "auto"

    raises: ValueError for a format that this device or processor does not have
    """
    able = available(device)
    if wanted == "auto":
        return able[0]
    for precision in able:
        if precision == wanted:
            return precision
    raise ValueError(
        f"precision {wanted} is not available on this {device.type}, which has {', '.join(able)} "
        "(or auto)"
    )


def available(device: torch.device) -> list[Precision]:
    """Formats that are fast here, the one that auto takes first."""
    able = of_torch(device)
    if device.type == "cpu" and "int8" not in able and has_code("int8"):
        able.insert(0, "int8")
    return able


def of_torch(device: torch.device) -> list[Precision]:
    """Formats that torch's own operators have here."""
    if device.type == "cuda":
        return ["bfloat16", "float32"] if torch.cuda.is_bf16_supported() else ["float32"]
    able: list[Precision] = ["float32"]
    if packable(device):
        has = cpu_instructions()
        if not has.isdisjoint({"avx512_bf16", "amx_bf16"}):
            able.insert(0, "bfloat16")
        # without it, oneDNN adds pairs of products in 16 bits, which overflow
        if "avx512_vnni" in has:
            able.insert(0, "int8")
    return able


def packable(device: torch.device) -> bool:
    """Whether this torch has oneDNN's layouts for the device."""
    mkldnn: Any = torch.backends.mkldnn
    return device.type == "cpu" and bool(mkldnn.is_available())


def pack(model: GPT, precision: Precision) -> nn.Module:
    """Replace the model's linear layers by packed ones. returns: its output head, (..., C) -> (...,
    vocab_size)"""

    def packed(weight: Tensor, bias: Tensor | None) -> nn.Module:
        if precision == "int8":
            return Int8Linear(weight, bias)
        return PackedLinear(weight, bias, getattr(torch, precision))

    for block in model.h:
        for parent, name in (
            (block.attn, "c_attn"),
            (block.attn, "c_proj"),
            (block.mlp, "c_fc"),
            (block.mlp, "c_proj"),
        ):
            linear = getattr(parent, name)
            setattr(parent, name, packed(linear.weight, linear.bias))
    return packed(model.wte.weight[: model.config.vocab_size], None)
