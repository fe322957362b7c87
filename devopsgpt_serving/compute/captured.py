"""Decoding on CUDA by replaying a captured graph: one launch for a step of the model instead of
some hundred.

A text must not depend on what else the service does, and the kernels that libraries choose, which
round differently, depend on shapes. So decode steps have one shape, and prompts are computed in
pieces of one. What is left is that a library gives equal rows of one product equal numbers, and
that a prompt whose tokens are scored gets a larger head.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from devopsgpt_model.device import has_triton, starts
from devopsgpt_model.gpt import GPT, NewTokens
from devopsgpt_serving.compute.precision import Precision
from devopsgpt_serving.compute.runner import EagerRunner

KERNEL_TOLERANCE = 0.05  # of numbers near 1 in bfloat16, whose sums torch takes in another order
PIECE = 128  # tokens, as many as `prefill_chunk` asks for; a GPU takes hardly less time for fewer


class CapturedRunner(EagerRunner):
    """One graph of all rows and the whole context, captured at the first step, which is the
    warm-up's.

    Inputs lie in buffers that never move. Where Triton's kernels run, attention reads what a row
    holds. Elsewhere it reads the whole context, and rows that nobody asked for are computed at the
    last place, which the scheduler leaves free.
    """

    def __init__(self, model: GPT, rows: int, precision: Precision = "bfloat16") -> None:
        super().__init__(model, rows, precision)
        self.ids = torch.zeros(rows, 1, dtype=torch.int64, device=self.device)
        self.starts = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.replay: Callable[[], Tensor] | None = None
        self.attend = attention_kernel(model, rows)

    @torch.inference_mode()
    def prefill(self, row: int, ids: list[int], start: int, every: bool) -> Tensor:
        """Add ids to a row that holds `start` tokens. returns: logits after the last one, (1, V),
        or every, (t, V)"""
        size = min(PIECE, self.block_size)
        pieces = [
            self.extend_piece(row, ids[at : at + size], start + at, size)
            for at in range(0, len(ids), size)
        ]
        return self.head(torch.cat(pieces) if every else pieces[-1][-1:])

    def extend_piece(self, row: int, ids: list[int], start: int, size: int) -> Tensor:
        """Hidden states (len(ids), C) of the next tokens of a row, computed as `size` tokens.

        What is missing is the last token again at its own place, so nothing else is written to the
        cache.
        """
        last = len(ids) - 1
        at = torch.arange(size, device=self.device).clamp_(max=last)
        positions = start + at[None]  # (1, size)
        mask = torch.arange(self.block_size, device=self.device) <= positions[:, None, :, None]
        new = NewTokens(positions, torch.zeros(1, 1, dtype=torch.int64, device=self.device), mask)
        idx = torch.tensor([ids], device=self.device)[:, at]
        return self.model.extend_hidden(idx, self.cache.rows(row, row + 1), new)[0, : last + 1]

    @torch.inference_mode()
    def decode(self, ids: list[int], starts: list[int], asked: list[int] | None = None) -> Tensor:
        """Add one token to each of the first len(ids) rows. returns: logits (len(asked), V), until
        the next call"""
        spare = self.rows - len(ids)
        self.ids[:, 0] = torch.tensor(ids + [0] * spare, device=self.device)
        nowhere = self.block_size - 1 if self.attend is None else -1
        self.starts[:] = torch.tensor(starts + [nowhere] * spare, device=self.device)
        if self.replay is None:
            self.replay = self.capture()
        logits = self.replay()
        return logits[: len(ids)] if asked is None or len(asked) == len(ids) else logits[asked]

    def step(self) -> Tensor:
        """What the graph computes. returns: logits (rows, V) of the tokens in the buffers"""
        if self.attend is None:
            new = NewTokens.of(self.starts, 1, self.block_size)
        else:
            at, none = self.starts.clamp(min=0)[:, None], self.starts[:0]
            new = NewTokens(at, none, none, partial(self.attend, starts=self.starts))
        return self.head(self.model.extend_hidden(self.ids, self.cache, new)[:, -1])

    def capture(self) -> Callable[[], Tensor]:
        """Record a step. returns: what replays it

        On the model's own device: streams belong to the current one, which is the first, and a
        graph captured there of work elsewhere is empty.
        """
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            # once beforehand: libraries set themselves up at their first call
            with torch.cuda.stream(aside):
                self.step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # another thread may be loading the next model meanwhile; its calls are not ours to
            # forbid. The stream is named: torch keeps one of the device that captured first
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                logits = self.step()

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay


def attention_kernel(model: GPT, rows: int) -> Callable[..., Tensor] | None:
    """The kernel for the attention of decode steps; None where there is none, or where it does not
    compute here what torch does, which is logged."""
    config, weight = model.config, model.wte.weight
    if not has_triton(weight.device):
        return None
    from devopsgpt_model.kernels import decoding

    if not decoding.able(config.head_dim):
        return None
    shape = rows, config.n_head, config.block_size, config.head_dim

    def compare() -> None:
        with torch.cuda.device(weight.device), torch.inference_mode():
            agrees(decoding.attend, shape, weight)

    return decoding.attend if starts(compare) else None


def agrees(attend: Callable[..., Tensor], shape: tuple[int, int, int, int], like: Tensor) -> None:
    """Compare a kernel with torch's attention on random numbers. shape: (rows, heads, context, D)

    raises: RuntimeError where they differ by more than rounding
    """
    (rows, heads, context, width), kind = shape, {"dtype": like.dtype, "device": like.device}
    generator = torch.Generator(like.device).manual_seed(1)
    draw = partial(torch.randn, generator=generator, **kind)
    qkv, keys, values = draw(rows, 3 * heads * width), draw(shape), draw(shape)
    held = torch.arange(rows, device=like.device) * (context - 1) // max(1, rows - 1)
    q, k, v = qkv.view(rows, 3, heads, 1, width).unbind(1)
    every = torch.arange(rows, device=like.device)
    keys[every, :, held], values[every, :, held] = k[:, :, 0], v[:, :, 0]
    mask = torch.arange(context, device=like.device) <= held[:, None, None, None]
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).flatten(1)
    off = float((attend(qkv, keys, values, starts=held) - expected).abs().max())
    if not off < KERNEL_TOLERANCE:
        raise RuntimeError(f"attention of decode steps is {off} off torch's on this GPU")
