"""Saving beside the training: a snapshot is taken between two steps, a thread writes it while the
next ones run."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

Snapshot = dict[str, Tensor]
WRITING_SHARE = 0.1  # of a run's time, where its states are large
SHORT_SECONDS = 1.0  # a write as short as this is never put off
ASSUMED_SPEED = 200e6  # bytes/s of a disk, until a write was measured


class Saver(AbstractContextManager["Saver"]):
    """One writer with one snapshot: a save waits for the one before it.

    An error of the writer is raised by the next `save`, by `wait`, or on leaving the context, never
    lost.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._snapshot: Snapshot = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._took: float | None = None  # seconds, the last write
        self._ended = time.monotonic()

    def __enter__(self) -> "Saver":
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
            pinned = self._on_cuda and tensor.is_cuda
            self._snapshot[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
        self._snapshot[name].copy_(tensor, non_blocking=True)
