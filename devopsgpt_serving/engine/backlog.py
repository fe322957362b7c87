"""Estimates when a refused caller should come back: tokens still to be sampled, by the measured
speed.

Told of every token, as the metrics are. Counts time only while there is something to do.
"""

import math
import time

from devopsgpt_serving.engine.sequence import Sequence

MEMORY_S = 20.0  # busy time after which what was measured counts half


class Backlog:
    """Sequences that were admitted and have not ended. Called from the engine's thread and the
    event loop alike."""

    def __init__(self, longest_s: float) -> None:
        """longest_s: what nobody is told to wait longer than"""
        self.longest_s = longest_s
        self._inside: dict[Sequence, int] = {}
        self._tokens, self._busy_s, self._since = 0.0, 0.0, 0.0

    def add(self, sequence: Sequence, room: int) -> None:
        """A sequence that is about to be admitted. room: tokens that its prompt leaves in the
        context"""
        if not self._inside:
            self._since = time.monotonic()
        self._inside[sequence] = min(sequence.sampling.max_tokens, room)

    def drop(self, sequence: Sequence) -> None:
        """It ended, or was not admitted."""
        self._inside.pop(sequence, None)

    def token(self) -> None:
        """A token was sampled."""
        now = time.monotonic()
        self._tokens, self._busy_s, self._since = (
            self._tokens + 1,
            self._busy_s + now - self._since,
            now,
        )
        if self._busy_s > MEMORY_S:
            self._tokens, self._busy_s = self._tokens / 2, self._busy_s / 2

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second while there was something to do; 0 before the first."""
        return self._tokens / self._busy_s if self._busy_s else 0.0

    @property
    def owed(self) -> int:
        """Most tokens that are still to be sampled for what was admitted."""
        return sum(
            max(0, most - len(sequence.tokens)) for sequence, most in list(self._inside.items())
        )

    def retry_after_s(self) -> int:
        """Whole seconds until what is owed now has been worked off, at the measured speed."""
        speed = self.tokens_per_s
        wait = self.owed / speed if speed else 1.0
        return max(1, math.ceil(min(wait, self.longest_s)))
