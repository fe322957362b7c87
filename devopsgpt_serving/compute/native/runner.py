"""The engine's runner on a processor with AVX-512 or AVX2: one call into gpt.cpp computes a step of
the model.

Keys and values are kept in half precision (float32 where the model is), keys in panels of 16
positions.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_serving.compute.native.build import NotCompiled, library
from devopsgpt_serving.compute.native.layout import (
    LANES,
    Layer,
    Model,
    Room,
    Tokens,
    Weights,
    numbers,
)
from devopsgpt_serving.compute.native.processor import instructions_for
from devopsgpt_serving.compute.precision import Precision

MOST_HEAD_DIM = 128


def able(config: GPTConfig, precision: Precision, device: torch.device) -> bool:
    """Whether this processor and this shape of model are what gpt.cpp is written for."""
    shaped = (
        config.n_embd % LANES == 0
        and config.head_dim % LANES == 0
        and config.head_dim <= MOST_HEAD_DIM
    )
    return device.type == "cpu" and shaped and instructions_for(precision) is not None


class NativeRunner:
    """A model in C++ and its cache. Takes the model over."""

    reuses_answers = True  # a token's numbers do not depend on how many are computed beside it

    def __init__(self, model: GPT, rows: int, precision: Precision = "float32") -> None:
        """raises: NotCompiled where there is no compiled code for this machine"""
        instructions = instructions_for(precision)
        if instructions is None:
            raise NotCompiled(f"this processor has no instructions that {precision} is written for")
        self.config = config = model.config
        self.rows, self.block_size, self.device = rows, config.block_size, torch.device("cpu")
        self._extend = _function(library(instructions, precision))
        self._places = -(-config.block_size // LANES) * LANES  # positions of a row, in whole panels
        dtype = torch.float32 if precision == "float32" else torch.float16
        heads, panels = (rows, config.n_head), self._places // LANES

        def empty(*shape: int) -> list[Tensor]:
            return [torch.zeros(*heads, *shape, dtype=dtype) for _ in model.h]

        self.keys, self.values = (
            empty(panels, config.head_dim, LANES),
            empty(self._places, config.head_dim),
        )
        self._threads = torch.get_num_threads()
        self._weights = Weights(instructions, precision)
        self._model = self._describe(model)
        self._room_for(rows)

    def prefill(self, row: int, ids: list[int], start: int, every: bool) -> Tensor:
        """Add ids to a row that holds `start` tokens. returns: logits after the last one, (1, V),
        or every, (t, V)"""
        count = len(ids)
        asked = list(range(count)) if every else [count - 1]
        return self._compute(ids, [row] * count, list(range(start, start + count)), asked)

    def decode(self, ids: list[int], starts: list[int], asked: list[int] | None = None) -> Tensor:
        """Add one token to each of the first len(ids) rows that is asked for. returns: logits
        (len(asked), V)"""
        rows = list(range(len(ids))) if asked is None else asked
        return self._compute(
            [ids[row] for row in rows], rows, [starts[row] for row in rows], list(range(len(rows)))
        )

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Let row target begin with row source's first `length` tokens."""
        # what the last one has beyond the length is written before it is read
        panels = -(-length // LANES)
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[target, :, :panels] = keys[source, :, :panels]
            values[target, :, :length] = values[source, :, :length]

    def _compute(
        self, ids: list[int], rows: list[int], positions: list[int], asked: list[int]
    ) -> Tensor:
        """Logits (len(asked), V) of some of the new tokens."""
        self._room_for(len(ids))
        logits = torch.empty(len(asked), self.config.vocab_size)
        lists = numbers(ids), numbers(rows), numbers(positions), len(asked), numbers(asked)
        tokens = Tokens(len(ids), *lists, logits.data_ptr())
        self._extend(ctypes.byref(self._model), ctypes.byref(tokens), ctypes.byref(self._room))
        return logits

    def _room_for(self, count: int) -> None:
        """Intermediate results of so many tokens find place."""
        if count <= getattr(self, "_most", 0):
            return
        self._most, width = count, self.config.n_embd
        floats = (count * width, 4 * count * width, count * width, self._threads * self._places)
        whole = (4 * count * width, 2 * count)  # words, begin
        x, wide, y, scores = (torch.empty(size) for size in floats)
        words, begin = (torch.empty(size, dtype=torch.int32) for size in whole)
        self._tensors = [x, wide, y, scores, words, torch.empty(count), begin]
        self._room = Room(*(tensor.data_ptr() for tensor in self._tensors))

    def _describe(self, model: GPT) -> Model:
        config, weights = self.config, self._weights
        layers = (Layer * config.n_layer)()
        for at, block in enumerate(model.h):
            layers[at] = Layer(
                weights.norm(block.ln_1),
                weights.matrix(block.attn.c_attn.weight, block.attn.c_attn.bias),
                weights.matrix(block.attn.c_proj.weight, block.attn.c_proj.bias),
                weights.norm(block.ln_2),
                weights.matrix(block.mlp.c_fc.weight, block.mlp.c_fc.bias),
                weights.matrix(block.mlp.c_proj.weight, block.mlp.c_proj.bias),
                self.keys[at].data_ptr(),
                self.values[at].data_ptr(),
            )
        return Model(
            config.n_layer,
            config.n_embd,
            config.n_head,
            self._places,
            self._threads,
            weights.keep(model.wte.weight.float()),
            weights.keep(model.wpe.weight.float()),
            layers,
            weights.norm(model.ln_f),
            weights.matrix(model.wte.weight[: config.vocab_size], None),
        )


def _function(compiled: Path) -> Callable[..., None]:
    try:
        extend = ctypes.CDLL(str(compiled)).extend
    except OSError as error:
        raise NotCompiled(f"it does not load: {error}") from error
    extend.argtypes, extend.restype = (
        [ctypes.POINTER(Model), ctypes.POINTER(Tokens), ctypes.POINTER(Room)],
        None,
    )
    return extend
