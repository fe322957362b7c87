"""Measuring a model on held-out tokens: a full, deterministic pass, the same number each time.

nanoGPT's estimate on random batches stands beside it, for comparing with its published table.
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from devopsgpt_model.batches import full_pass
from devopsgpt_model.device import autocast, send
from devopsgpt_model.gpt import GPT
from devopsgpt_model.loss import IGNORED, token_losses
from devopsgpt_model.shutdown import NEVER, StopRequest
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.tokenizer import Tokenizer

# Tokens per forward pass, which hide what starting it costs.
EVALUATION_TOKENS = {"cpu": 4096, "cuda": 16_384}


@dataclass(frozen=True)
class Evaluation:
    """loss: nats/token; bits_per_byte compares across tokenizers; tokens: how many were
    predicted."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    text_bytes: int
    seconds: float


def mean_loss(
    model: GPT,
    tokens: NDArray[np.uint16],
    block_size: int | None = None,
    dtype: torch.dtype | None = None,
    every: int = 1,
) -> float:
    """Mean loss in nats/token over every token but the first, each predicted exactly once.

    A token sees what stands before it in its window of block_size tokens (default: the model's
    context).
    every: 1 takes all windows, n every n-th of them
    """
    total, count = summed_loss(model, tokens, block_size, dtype, every=every)
    return total / count


@torch.no_grad()
def summed_loss(
    model: GPT,
    tokens: NDArray[np.uint16],
    block_size: int | None = None,
    dtype: torch.dtype | None = None,
    rank: int = 0,
    ranks: int = 1,
    every: int = 1,
    stop: StopRequest = NEVER,
) -> tuple[float, int]:
    """Sum of the losses in nats, and how many tokens were predicted, over one rank's share of the
    windows.

    Every rank makes the same number of passes, the last ones for nothing: sharded weights are
    gathered in step.
    stop: once made, what is left is left out
    """
    block_size = block_size or model.config.block_size
    device = model.wte.weight.device
    was_training = model.training
    model.eval()
    # read once at the end: no pass waits for a GPU
    total = torch.zeros((), dtype=torch.float64, device=device)
    count, number = 0, -1
    passes = full_pass(tokens, block_size, _rows(block_size, device), IGNORED, every)
    for number, (idx, targets) in enumerate(passes):
        if stop.made:
            break
        if number % ranks == rank:
            losses = _losses(model, send(idx, device), send(targets, device), dtype)
            total += losses.double().sum()
            count += int((targets != IGNORED).sum())
    if number % ranks < rank:
        _losses(model, send(idx, device), send(targets, device), dtype)
    model.train(was_training)
    _shard_again(model)
    return float(total), count


def _shard_again(model: GPT) -> None:
    """Split the weights that no block holds over the ranks again, where a model is sharded.

    FSDP leaves them whole after a pass forward, as a pass back would gather them again. None comes
    here, and whoever saves the state next would find weights that the optimizer does not know.
    """
    reshard = getattr(model, "reshard", None)  # of torch's FSDPModule, whose import takes seconds
    if reshard is not None:
        reshard()


def _rows(block_size: int, device: torch.device) -> int:
    return max(1, EVALUATION_TOKENS.get(device.type, EVALUATION_TOKENS["cpu"]) // block_size)


def _losses(model: GPT, idx: Tensor, targets: Tensor, dtype: torch.dtype | None) -> Tensor:
    with autocast(idx.device, dtype):
        return model.loss(idx, targets, token_losses)


@torch.no_grad()
def random_batch_loss(
    model: GPT,
    tokens: NDArray[np.uint16],
    batches: int = 500,
    batch_size: int = 8,
    block_size: int | None = None,
    seed: int = 1337,
    dtype: torch.dtype | None = None,
) -> float:
    """Mean loss in nats/token over random windows: an estimate, for comparing with nanoGPT's table
    only.

    raises: ValueError where the tokens do not fill one window and its targets
    source: nanoGPT's estimate_loss, whose table has batch_size 8, block_size 1024, 500 batches per
    split
    """
    block_size = block_size or model.config.block_size
    if len(tokens) <= block_size:
        raise ValueError(
            f"random batches need more than block_size ({block_size}) tokens, got {len(tokens):,}"
        )
    device = model.wte.weight.device
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    total = 0.0
    for _ in range(batches):
        starts = torch.randint(
            len(tokens) - block_size, (batch_size,), generator=generator
        ).tolist()
        rows = torch.from_numpy(
            np.stack([tokens[i : i + block_size + 1] for i in starts]).astype(np.int64)
        ).to(device)
        with autocast(device, dtype):
            _, loss = model(rows[:, :-1], rows[:, 1:])
        total += float(loss)
    model.train(was_training)
    return total / batches


def evaluate_split(
    model: GPT, tokenizer: Tokenizer, bins: TokenBins, split: str = "val"
) -> Evaluation:
    """Evaluate on the text of a split, encoded anew where it is in another vocabulary."""
    return evaluate(model, tokenizer, tokens_in(tokenizer, bins, split))


def tokens_in(
    tokenizer: Tokenizer, bins: TokenBins, split: str, most: int | None = None
) -> NDArray[np.uint16]:
    """A split in a model's own vocabulary: as it is on disk, or encoded anew.

    most: tokens from the beginning that are encoded anew at most; None encodes all
    """
    tokens = bins.tokens(split)
    if bins.tokenizer.ranks == tokenizer.ranks:
        return tokens
    return encode_again(tokens[:most], bins.tokenizer, tokenizer)


def encode_again(tokens: NDArray[np.uint16], old: Tokenizer, new: Tokenizer) -> NDArray[np.uint16]:
    """The same text in another vocabulary, document by document. tokens: whole documents, or ASCII
    at the cut"""
    documents = np.split(tokens, np.flatnonzero(tokens == old.eot_id) + 1)
    ids: list[int] = []
    for document in documents:
        ends = document.size > 0 and document[-1] == old.eot_id
        text = old.decode_bytes(document[: -1 if ends else None].tolist()).decode(
            "utf-8", errors="ignore"
        )
        ids += new.encode(text) + [new.eot_id] * bool(ends)
    return np.array(ids, dtype=np.uint16)


def evaluate(model: GPT, tokenizer: Tokenizer, tokens: NDArray[np.uint16]) -> Evaluation:
    """Loss, perplexity and bits per byte of UTF-8 text on held-out tokens."""
    started = time.perf_counter()
    loss = mean_loss(model, tokens)
    predicted = tokens[1:]
    text_bytes = int(np.asarray(tokenizer.byte_lengths)[predicted].sum())
    return Evaluation(
        loss=loss,
        perplexity=math.exp(loss),
        bits_per_byte=loss * len(predicted) / math.log(2) / text_bytes,
        tokens=len(predicted),
        text_bytes=text_bytes,
        seconds=time.perf_counter() - started,
    )
