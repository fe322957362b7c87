"""Sampling: text from a model, one token at a time over a cache of keys and values."""

from collections.abc import Iterator

import torch
from torch import Tensor

from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer

NUCLEUS = 1024  # tokens that nearly always reach top_p: finding them costs a twentieth of sorting 50,257


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """raises: ValueError for a sampling setting out of range"""
    if not 0 <= temperature <= 2:
        raise ValueError(f"temperature must be 0 (greedy) to 2, got {temperature}")
    if top_k < 0:
        raise ValueError(f"top_k must be 0 (all tokens) or more, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")


def sample_token(logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator) -> int:
    """One token id drawn from the logits (V,); temperature 0 takes the most likely one.

    top_k: how many of the most likely tokens may be drawn, 0 for all
    top_p: the share of probability that the most likely tokens must reach (Holtzman et al. 2019)
    """
    if temperature == 0:
        return int(logits.argmax())
    if not top_k and top_p == 1:
        return sample_tokens(logits[None], [temperature], [generator])[0]
    ordered, ids = _most_likely(logits.float(), temperature, top_k, top_p)
    if top_p < 1:
        beyond = ordered.cumsum(0) - ordered >= top_p  # the token that crosses top_p stays
        beyond[0] = False  # so does the first, however small top_p is
        ordered = ordered.masked_fill(beyond, 0)
    return int(ids[_draw(ordered[None], [generator])[0]])


def sample_tokens(logits: Tensor, temperatures: list[float], generators: list[torch.Generator]) -> list[int]:
    """A token id for each row of logits (R, V), any of them; the same for a row alone as among others."""
    logits = logits.float()
    degrees = torch.tensor(temperatures, device=logits.device)[:, None]
    scaled = (logits - logits.amax(1, keepdim=True)) / degrees  # at most 0: a tiny temperature cannot overflow
    drawn: list[int] = _draw(torch.softmax(scaled, dim=1), generators).tolist()
    return drawn


def _most_likely(logits: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities, falling, and ids of the top_k tokens, or of as many as reach top_p, or of all. logits: (V,)"""
    if top_k:
        kept = logits.topk(min(top_k, logits.numel()))
        return torch.softmax((kept.values - kept.values[0]) / temperature, dim=0), kept.indices
    probabilities = torch.softmax((logits - logits.max()) / temperature, dim=0)
    likely = probabilities.topk(min(NUCLEUS, logits.numel()))
    if likely.values.sum() >= top_p:
        return likely.values, likely.indices
    ordered = probabilities.sort(descending=True)
    return ordered.values, ordered.indices


def _draw(weights: Tensor, generators: list[torch.Generator]) -> Tensor:
    """An index for each row of weights (R, N), as likely as its weight, from one number of each generator."""
    sums = weights.cumsum(1, dtype=torch.float64)
    points = [torch.rand(1, dtype=torch.float64, device=sums.device, generator=each) for each in generators]
    return torch.searchsorted(sums, torch.stack(points) * sums[:, -1:], right=True)[:, 0].clamp_max(sums.size(1) - 1)


@torch.inference_mode()
def stream_ids(
    model: GPT,
    prompt: list[int],
    max_tokens: int,
    *,
    eot_id: int,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 1337,
) -> Iterator[int]:
    """New token ids after a prompt, until end of text, max_tokens or a full context.

    raises: ValueError for an empty prompt, one that fills the context, or a setting out of range
    """
    check_sampling(temperature, top_k, top_p)
    room = model.config.block_size - len(prompt)
    if not prompt:
        raise ValueError("a prompt needs at least one token; begin with end-of-text for none")
    if room < 1:
        raise ValueError(f"a prompt has at most {model.config.block_size - 1} tokens, got {len(prompt)}")
    device = model.wte.weight.device
    generator = torch.Generator(device=device).manual_seed(seed)
    cache = model.new_cache(1)
    ids, held = torch.tensor([prompt], device=device), 0
    for _ in range(min(max_tokens, room)):
        logits = model.extend(ids, cache, torch.tensor([held], device=device))
        held += ids.size(1)
        token = sample_token(logits[0], temperature, top_k, top_p, generator)
        if token == eot_id:
            return
        yield token
        ids = torch.tensor([[token]], device=device)


def generate_text(model: GPT, tokenizer: Tokenizer, prompt: str, max_tokens: int = 100, **sampling: float | int) -> str:
    """The text that follows a prompt; an empty prompt begins a new document. Settings: as of stream_ids."""
    ids = tokenizer.encode(prompt) or [tokenizer.eot_id]
    return tokenizer.decode(stream_ids(model, ids, max_tokens, eot_id=tokenizer.eot_id, **sampling))  # type: ignore[arg-type]
