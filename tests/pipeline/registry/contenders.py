"""Checkpoints of which one is better than another, for tests of the gate."""

import torch

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.tracking.client import CHAMPION, PREVIOUS, version_of_alias

TEXT = "the service answers and the service waits, a slow service is a broken service. " * 30


def save_contender(folder, steps):
    """A tiny checkpoint that learned a line of TEXT; with 0 steps it is the start of the others.
    returns: the folder

    Up to 20 steps, more of them make a better one.
    """
    config = TrainingConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, seed=7, device="cpu")
    model = GPT(
        GPTConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=32)
    ).init_weights(seed=7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ids = torch.tensor([list(TEXT.encode()[:64])])
    for _ in range(steps):
        optimizer.zero_grad()
        model(ids[:, :-1], ids[:, 1:])[1].backward()
        optimizer.step()
    facts = {"config": vars(config), "init_checkpoint": ""}
    save_checkpoint(folder, model.eval(), Tokenizer.plain_bytes(), facts)
    return folder


def aliases(registry):
    """Champion and previous."""
    return tuple(version_of_alias(registry, alias) for alias in (CHAMPION, PREVIOUS))
