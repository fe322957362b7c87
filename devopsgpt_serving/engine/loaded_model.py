"""What the engine asks of whoever computes: a loaded model, and the scheduler of its sequences.

Two pairs exist: our own (`scheduler.py`), and vLLM beside this service (`vllm_scheduler.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.version import Version


@dataclass(frozen=True)
class Observers:
    """Who hears of each sampled token and of each end (with its reason)."""

    token: Callable[[Sequence], None]
    ended: Callable[[Sequence, str], None]


class Scheduler(Protocol):
    """Chooses what is computed next for one model. Only the engine's thread changes it."""

    @property
    def loaded(self) -> "LoadedModel": ...

    @property
    def sequences(self) -> list[Sequence]:
        """What waits or runs."""

    @property
    def running(self) -> int:
        """Sequences that are being computed."""

    @property
    def kv_cache_usage(self) -> float | None:
        """Share of the places for keys and values that running sequences fill; None where that is
        not known."""

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""

    def step(self) -> None:
        """One round: admit who waits, and hand out the next tokens."""

    def fail_all(self, error: Exception) -> None:
        """End everything that waits or runs."""

    async def trouble(self) -> str | None:
        """Why nothing can be computed now; None where it can."""


class LoadedModel(Protocol):
    """A model version that is ready to answer."""

    @property
    def version(self) -> Version: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def block_size(self) -> int:
        """Tokens that prompt and answer may have together."""

    def scheduler(self, prefill_chunk: int, observers: Observers) -> Scheduler:
        """A scheduler for this model, with nothing to do yet."""
