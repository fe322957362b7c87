"""How the next token of one sequence is chosen: settings, penalties, log-probabilities."""

import secrets
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from devopsgpt_model.sampling import SamplingParams, random_stream, sample_tokens

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The settings of one sequence; ranges are checked where they enter, in `schemas`."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    """None draws one; the same seed gives the same text whatever else is in the batch."""
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the answer, besides end-of-text; they add no text."""
    ignore_eos: bool = False
    """Whether the answer goes on after an end-of-text."""
    min_tokens: int = 0
    """Tokens before which nothing but max_tokens ends the answer."""
    skip_special_tokens: bool = True
    """Whether an end-of-text that ends nothing is left out of the text."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens in prompt and answer (Keskar et al. 2019); 1 changes nothing."""
    presence_penalty: float = 0.0
    """Taken from the logit of each token that is in the answer already."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit as many times as it is in the answer."""
    logprobs: int | None = None
    """How many most likely tokens to report beside each chosen one; None reports nothing."""
    echo_logprobs: bool = False
    """Whether the prompt's tokens are scored too."""

    def choice(self, index: int) -> "Sampling":
        """The settings of the index-th answer to the same prompt: another seed."""
        if self.seed is None:
            return self
        return replace(self, seed=(self.seed + index) % MAX_SEED)

    def with_stop(self, stop: tuple[str, ...]) -> "Sampling":
        """The same with further stop strings."""
        return replace(self, stop=(*self.stop, *stop))


@dataclass(frozen=True)
class TokenScore:
    """A token with its log-probability (None for the first of a text) and the most likely ones in
    its place."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Draws the tokens of one sequence from its own random stream."""

    def __init__(self, sampling: Sampling, prompt: list[int], eot_id: int) -> None:
        self.sampling = sampling
        eos = frozenset[int]() if sampling.ignore_eos else frozenset({eot_id})
        self.ending = eos | sampling.stop_token_ids
        seed = secrets.randbelow(MAX_SEED) if sampling.seed is None else sampling.seed
        self.params = SamplingParams(
            random_stream(seed),
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
        )
        self.prompt = set(prompt)
        self.drawn: Counter[int] = Counter()

    @property
    def penalizes(self) -> bool:
        """Whether the model's logits are changed before a token is chosen."""
        settings = self.sampling
        return bool(
            settings.repetition_penalty != 1
            or settings.presence_penalty
            or settings.frequency_penalty
            or settings.logit_bias
            or self._too_early
        )

    @property
    def _too_early(self) -> bool:
        """Whether the next token must not end the answer."""
        least = self.sampling.min_tokens
        return bool(least and self.ending and self.drawn.total() < least)

    def penalized(self, logits: Tensor) -> Tensor:
        """The logits (V,) with penalties and biases; -inf where a token must not be drawn."""
        settings = self.sampling
        logits = logits.float()
        if settings.repetition_penalty != 1:
            ids = torch.tensor(sorted(self.prompt | self.drawn.keys()), device=logits.device)
            seen, penalty = logits[ids], settings.repetition_penalty
            logits = logits.scatter(0, ids, torch.where(seen > 0, seen / penalty, seen * penalty))
        if self.drawn and (settings.presence_penalty or settings.frequency_penalty):
            ids = torch.tensor(list(self.drawn), device=logits.device)
            counts = torch.tensor(list(self.drawn.values()), device=logits.device)
            taken = settings.presence_penalty + settings.frequency_penalty * counts
            logits = logits.index_add(0, ids, taken.to(logits.dtype), alpha=-1)
        if settings.logit_bias:
            ids = torch.tensor([token for token, _ in settings.logit_bias], device=logits.device)
            biases = torch.tensor([bias for _, bias in settings.logit_bias], device=logits.device)
            logits = logits.index_add(0, ids, biases)
        if self._too_early:
            logits = logits.index_fill(
                0, torch.tensor(sorted(self.ending), device=logits.device), -torch.inf
            )
        return logits


def sample_each(logits: Tensor, samplers: list[Sampler]) -> list[int]:
    """The next token id of each row. logits: (R, V)"""
    if any(one.penalizes for one in samplers):
        rows = zip(logits, samplers, strict=True)
        logits = torch.stack([one.penalized(row) if one.penalizes else row for row, one in rows])
    tokens = sample_tokens(logits, [one.params for one in samplers])
    for one, token in zip(samplers, tokens, strict=True):
        one.drawn[token] += 1
    return tokens


def score_token(logits: Tensor, token: int, top: int) -> TokenScore:
    """Log-probability of a token under the model itself, before temperature and penalties. logits:
    (V,)"""
    logprobs = torch.log_softmax(logits.float(), dim=0)
    best = logprobs.topk(min(top, logprobs.numel()))
    pairs = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenScore(token, float(logprobs[token]), pairs)
