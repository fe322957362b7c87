"""One answer in the making: what was asked, what the engine reports, how it ended.

The engine's thread writes, the caller's thread reads: reports go through one callback, cancelling
is a flag.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.engine.detokenizer import Detokenizer
from devopsgpt_serving.engine.sampling import Sampler, Sampling, TokenScore

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Scored:
    """A scored token and where its text begins, in characters from the start of the answer, or of
    the prompt."""

    score: TokenScore
    offset: int
    of_prompt: bool = False


@dataclass(frozen=True)
class NewText:
    """New text of a sequence, with the scores of its tokens where they were asked for."""

    text: str
    scored: tuple[Scored, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The end of a sequence."""

    reason: FinishReason


@dataclass(frozen=True)
class Failed:
    """A sequence that the engine gave up."""

    error: Exception


Report = NewText | Finished | Failed


@dataclass(eq=False)
class Sequence:
    """A prompt and what has been made of it. deadline, and every other time: time.monotonic()
    seconds"""

    prompt: list[int]
    sampling: Sampling
    report: Callable[[Report], None]
    deadline: float = float("inf")
    request_id: str = ""
    version: str = ""
    span: Any = None
    """What a trace hangs the sequence's spans on; None where its request is not traced."""
    arrived: float = field(default_factory=time.monotonic)
    admitted: float | None = None
    """When it got its slot."""
    first_token: float | None = None
    cancelled: bool = False
    ended: bool = False
    finish_reason: FinishReason | None = None
    """Why the answer ended; None while it is made, and where it was given up."""
    tokens: list[int] = field(default_factory=list)
    """Sampled so far, with the one that ended the answer."""
    queried_tokens: int = 0
    """Prompt tokens that were looked for among those computed before."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were taken from another sequence."""
    last_token: float | None = None
    """When its latest token was sampled."""
    sampler: Sampler = field(init=False)
    detokenizer: Detokenizer = field(init=False)
    echo: Detokenizer = field(init=False)
    """Where the prompt's own tokens begin, when they are scored."""
    _waiting: list[Scored] = field(init=False, default_factory=list)
    _silent: set[int] = field(init=False, default_factory=set)
    """Tokens that add no text."""

    def begin(self, tokenizer: Tokenizer) -> None:
        """Get ready to take tokens."""
        self.admitted = time.monotonic()
        self.sampler = Sampler(self.sampling, self.prompt, tokenizer.eot_id)
        self._silent = {tokenizer.eot_id} if self.sampling.skip_special_tokens else set()
        self.detokenizer = Detokenizer(tokenizer, self.sampling.stop)

    def take(self, token: int, score: TokenScore | None) -> bool:
        """Add a sampled token and report the text that it completes.

        returns: whether it ends the answer; such a token is scored and counted, and adds no text
        """
        if not self.tokens:
            self.first_token = time.monotonic()
        self.tokens.append(token)
        ends, text = token in self.sampler.ending, ""
        if ends:
            text = self.detokenizer.flush()
        if score is not None:
            self._waiting.append(Scored(score, len(self.detokenizer.text)))
        if not (ends or token in self._silent):
            may_stop = len(self.tokens) > self.sampling.min_tokens
            text = self.detokenizer.push(token, may_stop)
        self._tell(text)
        return ends or self.detokenizer.stopped

    def finish(self, reason: FinishReason) -> None:
        """Report what was held back, and the end."""
        if not self.ended:
            self.ended, self.finish_reason = True, reason
            self._tell(self.detokenizer.flush())
            self.report(Finished(reason))

    def fail(self, error: Exception) -> None:
        """Report that nothing more comes."""
        if not self.ended:
            self.ended = True
            self.report(Failed(error))

    def _tell(self, text: str) -> None:
        """Report text, and the scores of the tokens that it came from. Behind a stop string, no
        score is told."""
        if self.ended and not self.detokenizer.stopped:
            ready, self._waiting = tuple(self._waiting), []
        else:
            done = self.detokenizer.released
            ready = tuple(scored for scored in self._waiting if scored.offset < done)
            self._waiting = [scored for scored in self._waiting if scored.offset >= done]
        if text or ready:
            self.report(NewText(text, ready))
