"""How much of its training text a model says by heart: prompted with the text's own words, does it
go on as it does?"""

from typing import TYPE_CHECKING

import numpy as np

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from devopsgpt_model.checkpoint import Checkpoint
    from devopsgpt_model.gpt import GPT

RUN_TOKENS = 50  # Carlini et al. 2023 prompt with 50 tokens and compare the 50 that follow
SAMPLED_RUNS = 64  # one run is 1.6%
# of the training text from its beginning: all of the books, a part of OpenWebText
SEARCHED_TOKENS = 20_000_000
TEMPERATURE, TOP_K = 0.7, 50


def memorization(
    checkpoint: "Checkpoint", bins: TokenBins, runs: int = SAMPLED_RUNS, seed: int = 1337
) -> float:
    """The share of sampled 50-token runs that stand verbatim in the training text, 0..1.

    Each run follows a prompt out of the training text, spread evenly over it, which is where a
    model recites most.
    raises: ValueError for a context too short for a prompt and a run
    source: Carlini et al. 2023, with sampling as the service samples in place of greedy decoding
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    prompt_tokens = min(RUN_TOKENS, model.config.block_size - RUN_TOKENS)
    if prompt_tokens < 1:
        raise ValueError(
            f"memorization needs a block_size of at least {RUN_TOKENS + 1}, got "
            f"{model.config.block_size}"
        )
    text = bins.tokenizer.decode_bytes(bins.tokens("train")[:SEARCHED_TOKENS].tolist())
    starts = np.linspace(0, max(0, len(text) - 20 * prompt_tokens), runs).astype(int)
    prompts = [
        _prompt(tokenizer, text[start : start + 20 * prompt_tokens], prompt_tokens)
        for start in starts
    ]
    spoken = _go_on(model, [prompt for prompt in prompts if prompt], tokenizer.eot_id, seed)
    found = [tokenizer.decode_bytes(run) in text for run in spoken.tolist()]
    return sum(found) / len(found)


def _prompt(tokenizer: Tokenizer, text: bytes, tokens: int) -> list[int]:
    """The first tokens of a passage; empty where it has fewer."""
    ids = tokenizer.encode(text.decode("utf-8", errors="ignore"))[:tokens]
    return ids if len(ids) == tokens else []


def _go_on(model: "GPT", prompts: list[list[int]], eot_id: int, seed: int) -> "Tensor":
    """prompts: B of the same length -> ids (B, RUN_TOKENS), end-of-text never drawn."""
    import torch

    device = model.wte.weight.device
    generator = torch.Generator(device=device).manual_seed(seed)
    cache, ids = model.new_cache(len(prompts)), torch.tensor(prompts, device=device)
    held, spoken = torch.zeros(len(prompts), dtype=torch.int64, device=device), []
    with torch.inference_mode():
        for _ in range(RUN_TOKENS):
            logits = model.extend(ids, cache, held).float() / TEMPERATURE
            held = held + ids.size(1)
            logits[:, eot_id] = -torch.inf
            top = torch.topk(logits, min(TOP_K, logits.size(1)))
            drawn = torch.multinomial(torch.softmax(top.values, dim=1), 1, generator=generator)
            ids = top.indices.gather(1, drawn)
            spoken.append(ids)
    return torch.cat(spoken, dim=1)
