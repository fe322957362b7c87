"""Turns tokens into text as they come, and finds the stop strings.

Hands out whole characters only, and nothing that may still become a stop string.
"""

import codecs

from devopsgpt_model.tokenizer import Tokenizer


class Detokenizer:
    """The text of one sequence. `text` ends before the stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.text = ""
        self.released = 0  # characters that were handed out
        self.stopped = False
        self._searched_from = 0  # where the first stop string may begin
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int, may_stop: bool = True) -> str:
        """Text that this token completes. may_stop: whether a stop string may begin in it"""
        piece = self._decoder.decode(self.tokenizer.decode_bytes([token]))
        if not may_stop:
            self._searched_from = len(self.text) + len(piece)
        self._add(piece)
        return self._release(len(self.text) if self.stopped else len(self.text) - self._held_back())

    def flush(self) -> str:
        """What was still held back, once no token follows; an unfinished character becomes
        U+FFFD."""
        if not self.stopped:
            self._add(self._decoder.decode(b"", final=True))
        return self._release(len(self.text))

    def _add(self, piece: str) -> None:
        longest = max((len(stop) for stop in self.stop), default=1)
        # a stop string may begin in text that was there before
        start = max(self._searched_from, len(self.text) - longest + 1)
        self.text += piece
        found = [
            (at + len(stop), at) for stop in self.stop if (at := self.text.find(stop, start)) >= 0
        ]
        if found:  # the one that is complete first, however the text was cut into tokens
            self.text, self.stopped = self.text[: min(found)[1]], True

    def _held_back(self) -> int:
        """Characters at the end that some stop string begins with."""
        longest = max((len(stop) for stop in self.stop), default=1) - 1
        for length in range(min(longest, len(self.text) - self._searched_from), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self.stop):
                return length
        return 0

    def _release(self, until: int) -> str:
        piece = self.text[self.released : until]
        self.released = max(until, self.released)
        return piece


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as OpenAI spells it: its text, or "bytes:\\xe2\\x80" where it is part of a
    character."""
    if token == tokenizer.eot_id:
        return "<|endoftext|>"
    content = tokenizer.decode_bytes([token])
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
