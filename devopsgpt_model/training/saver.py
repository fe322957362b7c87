"""Saving while the training goes on: a snapshot between two steps, written by a thread.

`RunSaver` decides what a run keeps on disk, `SnapshotWriter` writes it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.training.muon import Optimizer
from devopsgpt_model.training.ranks import Ranks, whole
from devopsgpt_model.training.state import (
    BEST,
    MODEL,
    TrainingProgress,
    restore,
    save_best,
    save_tensors,
    state_metadata,
    state_tensors,
)

STATE_FILE, BEST_FILE = "state.safetensors", "best.safetensors"

Snapshot = dict[str, Tensor]
WRITING_SHARE = 0.1  # of a run's time, where its states are large
SHORT_SECONDS = 1.0  # a write as short as this is never put off
LARGEST_CHUNK = 2**29  # bytes, unless a tensor is larger; gpt2-xl takes 36 of them
ALIGNMENT = 64  # bytes, a cache line: of every tensor's beginning
ASSUMED_SPEED = 200e6  # bytes/s of a disk, until a write was measured


class Memory:
    """Tensors on the host, cut from few large chunks.

    Torch rounds each pinned allocation up to a power of two: 37.6 GB for the 18.7 of gpt2-xl. The
    chunks here are powers of two, and are filled.
    """

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned
        self.plan = ChunkPlan()
        self._chunks: list[Tensor] = []

    def empty_like(self, tensor: Tensor) -> Tensor:
        """An empty tensor of this one's shape and format, contiguous."""
        size = tensor.numel() * tensor.element_size()
        chunk, begin = self.plan.place(size)
        if chunk == len(self._chunks):
            self._chunks.append(
                torch.empty(self.plan.sizes[chunk], dtype=torch.uint8, pin_memory=self.pinned)
            )
        return self._chunks[chunk][begin : begin + size].view(tensor.dtype).view(tensor.shape)


class ChunkPlan:
    """Where tensors lie in chunks, each as large as all before it up to LARGEST_CHUNK, or as its
    first tensor needs."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._used: list[int] = []

    def place(self, size: int) -> tuple[int, int]:
        """returns: the chunk, perhaps a new one, and the first byte in it of a tensor of so many
        bytes"""
        size = -(-size // ALIGNMENT) * ALIGNMENT
        for chunk, used in enumerate(self._used):
            if used + size <= self.sizes[chunk]:
                self._used[chunk] += size
                return chunk, used
        least = max(size, min(LARGEST_CHUNK, sum(self.sizes)))
        self.sizes.append(1 << (least - 1).bit_length())
        self._used.append(size)
        return len(self.sizes) - 1, 0


class SnapshotWriter(AbstractContextManager["SnapshotWriter"]):
    """One writer with one snapshot: a save waits for the one before it.

    An error of the writer is raised by the next `save`, by `wait`, or on leaving the context, never
    lost.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._snapshot: Snapshot = {}
        self._memory = Memory(pinned=self._on_cuda)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._took: float | None = None  # seconds, the last write
        self._ended = time.monotonic()

    def __enter__(self) -> "SnapshotWriter":
        self._ended = time.monotonic()
        return self

    def due(self, size: int) -> bool:
        """Whether it is time for a save of so many bytes: a fast GPU evaluates more often than a
        disk takes states."""
        took = size / ASSUMED_SPEED if self._took is None else self._took
        if took <= SHORT_SECONDS:
            return True
        writes = self._thread is not None and self._thread.is_alive()
        return not writes and time.monotonic() - self._ended >= took * (1 / WRITING_SHARE - 1)

    def save(
        self, tensors: Iterable[tuple[str, Tensor]], write: Callable[[Snapshot], None]
    ) -> None:
        """Copy the tensors, then have the thread write the copies; a GPU is not waited for.

        raises: what the write before this one raised
        """
        self.wait()
        for name, tensor in tensors:
            self._copy(name, tensor)
        copied = torch.cuda.current_stream().record_event() if self._on_cuda else None

        def work() -> None:
            try:
                if copied:
                    copied.synchronize()
                began = time.monotonic()
                write(self._snapshot)
                self._ended = time.monotonic()
                self._took = self._ended - began
            except BaseException as error:  # raised again in the trainer's thread
                self._error = error

        self._thread = threading.Thread(target=work, name="saver")
        self._thread.start()

    def wait(self) -> None:
        """Until what was saved is on disk. raises: what writing it raised"""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def __exit__(self, *exception: object) -> None:
        self.wait()

    def _copy(self, name: str, tensor: Tensor) -> None:
        """The memory is kept from save to save: pinned memory is slow to get, and so are fresh
        pages."""
        if name not in self._snapshot:
            self._snapshot[name] = self._memory.empty_like(tensor)
        self._snapshot[name].copy_(tensor, non_blocking=True)


class RunSaver(AbstractContextManager["RunSaver"]):
    """What a run keeps on disk: its state, its best weights, at its end a checkpoint folder.

    Only rank 0 writes; the others help to put sharded tensors together.
    """

    def __init__(
        self, folder: Path, fingerprint: str, model: GPT, optimizer: Optimizer, ranks: Ranks
    ) -> None:
        """fingerprint: of the job, so that a state never continues another one"""
        self.folder, self.fingerprint = folder, fingerprint
        self.model, self.optimizer, self.ranks = model, optimizer, ranks
        self.writer = SnapshotWriter(model.wte.weight.device)
        self.best: dict[str, Tensor] = {}  # on the device: keeping them waits for nobody
        self.best_on_disk = -1  # the step of the best weights that are written

    def __enter__(self) -> "RunSaver":
        self.writer.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.writer.wait()

    def wait(self) -> None:
        """Until what was saved is on disk. raises: what writing it raised"""
        self.writer.wait()

    def restore(self, earlier: TrainingProgress) -> None:
        """Put weights and moments back as the folder's state has them. earlier: that state's"""
        restore(self.folder / STATE_FILE, self.model, self.optimizer)
        self.best_on_disk = earlier.best_step

    @torch.no_grad()
    def keep_best(self) -> None:
        """Keep the weights as they are now as the best so far."""
        for name, parameter in self.model.named_parameters():
            if name in self.best:
                self.best[name].copy_(parameter)
            else:
                self.best[name] = parameter.detach().clone()

    def due(self, progress: TrainingProgress) -> bool:
        """Before the first step there is nothing to lose; after it rank 0, who writes, decides."""
        # best, weights, moments
        size = 8 * sum(parameter.numel() for parameter in self.model.parameters())
        size += self.optimizer.moment_bytes
        return progress.step > 0 and self.ranks.any(self.ranks.first and self.writer.due(size))

    def save(self, progress: TrainingProgress, finished: bool = False) -> None:
        """Have the state written, newer best weights first: a kill between the two costs nothing.

        finished: no step will need weights or moments again, only how far the run came
        """
        best_step = progress.best_step
        metadata = state_metadata(progress, self.fingerprint, self.optimizer.name)
        tensors = iter(()) if finished else state_tensors(self.model, self.optimizer)
        newer, prefix = best_step != self.best_on_disk, MODEL
        if newer and (finished or best_step != progress.step):
            tensors, prefix = chain(tensors, self._best_tensors()), BEST
        self.best_on_disk = best_step

        def write(snapshot: Snapshot) -> None:
            if newer:
                save_best(self.folder / BEST_FILE, snapshot, best_step, prefix)
            kept = () if finished else snapshot.items()
            state = {name: tensor for name, tensor in kept if not name.startswith(BEST)}
            save_tensors(self.folder / STATE_FILE, state, metadata)

        self._hand_over(tensors, write)

    def save_best(self, progress: TrainingProgress) -> None:
        """Have the best weights written alone, where they are newer than those on disk."""
        path, step = self.folder / BEST_FILE, progress.best_step
        if step != self.best_on_disk:
            self._hand_over(
                self._best_tensors(), lambda snapshot: save_best(path, snapshot, step, BEST)
            )

    def write_checkpoint(self, tokenizer: Tokenizer, facts: dict[str, object]) -> None:
        """Make a checkpoint folder of the best weights, if there are any: those in memory, else, in
        a run that went on and gained no more, those on disk. facts: training.json

        With shards every rank must ask.
        """
        path = self.folder / BEST_FILE
        weights = {}
        for name, weight in self._best_tensors():
            if self.ranks.first:
                weights[name.removeprefix(BEST)] = weight.cpu()
        if self.ranks.first and (weights or path.exists()):
            with torch.device("meta"):
                best = GPT(self.model.config)
            best.load_state_dict(weights or load_file(path), assign=True)
            save_checkpoint(self.folder / "checkpoint", best, tokenizer, facts)

    def _hand_over(
        self, tensors: Iterable[tuple[str, Tensor]], write: Callable[[Snapshot], None]
    ) -> None:
        if self.ranks.first:
            self.writer.save(tensors, write)
        else:
            deque(tensors, maxlen=0)

    def _best_tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((f"{BEST}{name}", whole(weight)) for name, weight in self.best.items())
