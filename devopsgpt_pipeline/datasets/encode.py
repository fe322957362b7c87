"""Encoding much text on all cores: in processes, because tiktoken's threads wait for one
another."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

import numpy as np
from numpy.typing import NDArray

from devopsgpt_model.threads import usable_cpus
from devopsgpt_model.token_bins import DTYPE
from devopsgpt_model.tokenizer import Tokenizer

WAITING_BATCHES = 2  # for each process: one that it encodes and one that it takes next


@dataclass(frozen=True)
class Encoded:
    """A batch of documents.

    tokens: uint16, the documents one after the other, each closed by end-of-text
    sizes: int64 (documents, 2): tokens and bytes of text of each
    """

    tokens: NDArray[np.uint16]
    sizes: NDArray[np.int64]


class Encoders:
    """A process for each core. Use as a context manager."""

    def __init__(self, tokenizer: Tokenizer, processes: int | None = None) -> None:
        """processes: default: the cores that this process may use"""
        self.processes = processes or usable_cpus()
        # spawned, not forked: the parent has threads of its own
        self._pool = ProcessPoolExecutor(
            self.processes,
            get_context("spawn"),
            initializer=_begin,
            initargs=(tokenizer.name, tokenizer.ranks),
        )

    def __enter__(self) -> "Encoders":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def encode(self, batches: Iterable[list[str]]) -> Iterator[Encoded]:
        """The batches encoded, in their order. No more of them are read than the processes can work
        on."""
        under_way: deque[Future[Encoded]] = deque()
        for texts in batches:
            under_way.append(self._pool.submit(_encode, texts))
            if len(under_way) > WAITING_BATCHES * self.processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


_tokenizer: Tokenizer  # of a process of the pool


def _begin(name: str, ranks: dict[bytes, int]) -> None:
    global _tokenizer
    _tokenizer = Tokenizer(name, ranks)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes no queue, and its processes would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(texts: list[str]) -> Encoded:
    return encode_documents(_tokenizer, texts)


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> Encoded:
    """A batch, encoded in this process."""
    end = np.array([tokenizer.eot_id], dtype=DTYPE)
    pieces = [np.concatenate([tokenizer.encode_array(text), end]) for text in texts]
    sizes = [(len(piece), len(text.encode())) for piece, text in zip(pieces, texts, strict=True)]
    tokens = np.concatenate(pieces) if pieces else np.array([], dtype=DTYPE)
    return Encoded(tokens, np.array(sizes, dtype=np.int64).reshape(-1, 2))
