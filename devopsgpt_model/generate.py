"""Text from a model, one token at a time over a cache of keys and values."""

from collections.abc import Iterator
from typing import Any

import torch

from devopsgpt_model.gpt import GPT
from devopsgpt_model.sampling import SamplingParams, random_stream, sample_tokens
from devopsgpt_model.tokenizer import Tokenizer


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
    params = SamplingParams(random_stream(seed), temperature, top_k, top_p).check()
    room = model.config.block_size - len(prompt)
    if not prompt:
        raise ValueError("a prompt needs at least one token; begin with end-of-text for none")
    if room < 1:
        raise ValueError(
            f"a prompt has at most {model.config.block_size - 1} tokens, got {len(prompt)}"
        )
    device = model.wte.weight.device
    cache = model.new_cache(1)
    ids, held = torch.tensor([prompt], device=device), 0
    for _ in range(min(max_tokens, room)):
        logits = model.extend(ids, cache, torch.tensor([held], device=device))
        held += ids.size(1)
        token = sample_tokens(logits, [params])[0]
        if token == eot_id:
            return
        yield token
        ids = torch.tensor([[token]], device=device)


def generate_text(
    model: GPT, tokenizer: Tokenizer, prompt: str, max_tokens: int = 100, **sampling: float | int
) -> str:
    """The text that follows a prompt; an empty prompt begins a new document. Settings: as of
    stream_ids."""
    ids = tokenizer.encode(prompt) or [tokenizer.eot_id]
    settings: dict[str, Any] = {"eot_id": tokenizer.eot_id, **sampling}
    return tokenizer.decode(stream_ids(model, ids, max_tokens, **settings))
