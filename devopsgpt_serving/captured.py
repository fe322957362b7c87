"""Decoding on CUDA by replaying captured graphs: one launch for a step of the model instead of some hundred.

Not used unless `cuda_graphs` is set.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from devopsgpt_model.gpt import GPT, Places
from devopsgpt_serving.precision import Precision
from devopsgpt_serving.runner import EagerRunner


class CapturedRunner(EagerRunner):
    """A graph for each power of two of rows and of length, captured when it is first needed.

    Inputs lie in buffers that never move. Rows that fill up a graph's batch are computed at the last place, which
    the lane holds free.
    """

    def __init__(self, model: GPT, rows: int, precision: Precision = "bfloat16") -> None:
        super().__init__(model, rows, precision)
        self.ids = torch.zeros(rows, 1, dtype=torch.int64, device=self.device)
        self.starts = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        self.steps: dict[tuple[int, int], Callable[[], Tensor]] = {}

    @torch.inference_mode()
    def decode(self, ids: list[int], starts: list[int]) -> Tensor:
        """Add one token to each of the first len(ids) rows. returns: logits (len(ids), V), until the next call"""
        count, length = size_of_graph(len(ids), self.rows), size_of_graph(max(starts) + 1, self.block_size)
        spare = count - len(ids)
        self.ids[:count, 0] = torch.tensor(ids + [0] * spare, device=self.device)
        self.starts[:count] = torch.tensor(starts + [self.block_size - 1] * spare, device=self.device)
        if (count, length) not in self.steps:
            self.steps[count, length] = self.capture(count, length)
        return self.steps[count, length]()[: len(ids)]

    def step(self, count: int, length: int) -> Tensor:
        """What a graph computes. returns: logits (count, V) of the tokens in the buffers"""
        places = Places.of(self.starts[:count], 1, length)
        hidden = self.model.extend_hidden(self.ids[:count], self.cache.rows(0, count), places)
        return self.head(hidden[:, -1])

    def capture(self, count: int, length: int) -> Callable[[], Tensor]:
        """Record a step. returns: what replays it"""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # once beforehand: libraries set themselves up at their first call
            self.step(count, length)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # another thread may be loading the next model meanwhile; its calls are not ours to forbid
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            logits = self.step(count, length)

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay


def size_of_graph(least: int, most: int) -> int:
    """The power of two that holds `least`, or `most` where that is smaller."""
    return min(1 << (least - 1).bit_length(), most)
