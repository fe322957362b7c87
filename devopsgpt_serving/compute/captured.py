"""Decoding on CUDA by replaying a captured graph: one launch for a step of the model instead of
some hundred.

A text must not depend on what else the service does, and the kernels that libraries choose, which
round differently, depend on shapes. So decode steps have one shape, and prompts are computed in
pieces of one. What is left is that a library gives equal rows of one product equal numbers, and
that a prompt whose tokens are scored gets a larger head.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from devopsgpt_model.gpt import GPT, NewTokens
from devopsgpt_serving.compute.precision import Precision
from devopsgpt_serving.compute.runner import EagerRunner

PIECE = 128  # tokens, as many as `prefill_chunk` asks for; a GPU takes hardly less time for fewer


class CapturedRunner(EagerRunner):
    """One graph of all rows and the whole context, captured at the first step, which is the
    warm-up's.

    Inputs lie in buffers that never move. Rows that nobody asked for are computed at the last
    place, which the scheduler leaves free.
    """

    def __init__(self, model: GPT, rows: int, precision: Precision = "bfloat16") -> None:
        super().__init__(model, rows, precision)
        self.ids = torch.zeros(rows, 1, dtype=torch.int64, device=self.device)
        self.starts = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.replay: Callable[[], Tensor] | None = None

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
        self.starts[:] = torch.tensor(starts + [self.block_size - 1] * spare, device=self.device)
        if self.replay is None:
            self.replay = self.capture()
        logits = self.replay()
        return logits[: len(ids)] if asked is None or len(asked) == len(ids) else logits[asked]

    def step(self) -> Tensor:
        """What the graph computes. returns: logits (rows, V) of the tokens in the buffers"""
        new = NewTokens.of(self.starts, 1, self.block_size)
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
