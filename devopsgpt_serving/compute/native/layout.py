"""How gpt.cpp finds the model in memory: its structures, and weights laid out for its products."""

import contextlib
import ctypes
import mmap
from ctypes import POINTER, Structure, c_int64, c_void_p

import torch
from torch import Tensor, nn

LANES = 16  # floats of a vector
PANEL = {"avx512": 32, "avx2": 16}  # outputs of a panel of weights
GROUP = {  # inputs of one output that lie together
    "avx512": {"float32": 1, "bfloat16": 2, "int8": 4},
    "avx2": {"float32": 1, "int8": 2},
}


class Norm(Structure):
    """struct Norm"""

    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class Matrix(Structure):
    """struct Matrix"""

    _fields_ = [
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
    ]


class Layer(Structure):
    """struct Layer"""

    _fields_ = [
        ("ln_1", Norm),
        ("c_attn", Matrix),
        ("attn_proj", Matrix),
        ("ln_2", Norm),
        ("c_fc", Matrix),
        ("mlp_proj", Matrix),
        ("keys", c_void_p),
        ("values", c_void_p),
    ]


class Model(Structure):
    """struct Model"""

    _fields_ = [
        ("layers", c_int64),
        ("width", c_int64),
        ("heads", c_int64),
        ("places", c_int64),
        ("threads", c_int64),
        ("wte", c_void_p),
        ("wpe", c_void_p),
        ("layer", POINTER(Layer)),
        ("ln_f", Norm),
        ("head", Matrix),
    ]


class Room(Structure):
    """struct Room, its Inputs included"""

    _fields_ = [
        (name, c_void_p) for name in ("x", "wide", "y", "scores", "words", "scale", "begin")
    ]


class Tokens(Structure):
    """struct Tokens"""

    _fields_ = [
        ("count", c_int64),
        ("ids", POINTER(c_int64)),
        ("rows", POINTER(c_int64)),
        ("positions", POINTER(c_int64)),
        ("asked", c_int64),
        ("which", POINTER(c_int64)),
        ("logits", c_void_p),
    ]


class Weights:
    """Everything that a model's structures point to, kept as long as this is."""

    def __init__(self, instructions: str, precision: str) -> None:
        self.instructions, self.precision = instructions, precision
        self._kept: list[Tensor] = []

    def keep(self, tensor: Tensor) -> int:
        """The address of a tensor's numbers, one after the other."""
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def norm(self, norm: nn.LayerNorm) -> Norm:
        """A layer norm's weight and bias."""
        return Norm(self.keep(norm.weight), self.keep(norm.bias))

    def matrix(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        """A linear layer's weights in panels. weight: (out, in), in a multiple of 16; bias:
        (out,)"""
        outputs, inputs = weight.shape
        panel, group, scale = (
            PANEL[self.instructions],
            GROUP[self.instructions][self.precision],
            None,
        )
        padding = -outputs % panel
        weight = nn.functional.pad(weight.detach().float(), (0, 0, 0, padding))
        bias = (
            torch.zeros(len(weight))
            if bias is None
            else nn.functional.pad(bias.detach().float(), (0, padding))
        )
        if self.precision == "int8":
            scale = weight.abs().amax(1).clamp_min(1e-12) / 127  # (out,)
            weight = (weight / scale[:, None]).round_()
            weight = (
                (weight + 128).to(torch.uint8)
                if self.instructions == "avx512"
                else weight.to(torch.int8)
            )
        else:
            weight = weight.to(getattr(torch, self.precision))
        # (panels, in / group, panel, group)
        panels = weight.view(-1, panel, inputs // group, group).transpose(1, 2)
        packed = _in_large_pages(panels)
        return Matrix(
            self.keep(packed),
            None if scale is None else self.keep(scale),
            self.keep(bias),
            inputs,
            outputs,
        )


def _in_large_pages(tensor: Tensor) -> Tensor:
    """A contiguous copy, in pages of 2 MB where Linux gives them: fewer addresses to look up while
    it is read."""
    memory = mmap.mmap(-1, tensor.nbytes)
    with contextlib.suppress(OSError):  # a kernel that has only small ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)


def numbers(values: list[int]) -> ctypes.Array[c_int64]:
    """int64s as C takes them."""
    return (c_int64 * len(values))(*values)
