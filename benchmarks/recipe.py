"""val_loss of nanoGPT's fine-tuning recipe and of ours, at equal tokens.

A small GPT is pretrained on tiny shakespeare, then fine-tuned on token bins of the sample books,
with each recipe at each learning rate, three seeds each: `python -m benchmarks.recipe --bins
HOME/tokens/books --shakespeare FILE`.

nanoGPT: constant rate, draws with replacement, no dropout, the best of estimates on 40 random
batches is kept.
Ours: warm-up and decay to zero, shuffled windows, dropout, exact evaluations; with and without an
average of weights. Then, at ours' best learning rate, ours with one thing changed at a time.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.device import choose_autocast
from devopsgpt_model.evaluate import mean_loss, random_batch_loss
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.step import TrainingStep

CPU = torch.device("cpu")
SEEDS = (1, 2, 3)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
EVAL_INTERVAL = 25
AVERAGE_DECAY = 0.98  # of the running mean of weights: about the last 50 steps
# 16 sequences * 128 = 2,048 tokens/step
PRETRAIN = TrainingConfig(
    block_size=128, batch_size=16, max_steps=600, dropout=0.0, compile="off", device="cpu"
)
OURS = replace(
    PRETRAIN, max_steps=150, warmup_steps=15, dropout=0.1, beta2=0.99, min_learning_rate=0.0
)
CHANGES: dict[str, dict[str, float]] = {
    "no dropout": {"dropout": 0.0},
    "dropout 0.2": {"dropout": 0.2},
    "weight decay 0.3": {"weight_decay": 0.3},
    "beta2 0.95": {"beta2": 0.95},
    "no warm-up": {"warmup_steps": 0},
    "decay to a tenth": {"min_learning_rate": 0.1},  # of the peak
}
NANOGPT = replace(OURS, warmup_steps=0, dropout=0.0, beta2=0.95)


class RandomWindows:
    """nanoGPT's batches: random windows, drawn with replacement."""

    def __init__(self, tokens: np.ndarray, config: TrainingConfig) -> None:
        self.tokens, self.config = tokens, config
        self.generator = torch.Generator().manual_seed(config.seed)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 (batch_size, block_size)"""
        size = self.config.block_size
        starts = torch.randint(
            len(self.tokens) - size, (self.config.batch_size,), generator=self.generator
        )
        rows = torch.from_numpy(
            np.stack([self.tokens[i : i + size + 1] for i in starts.tolist()]).astype(np.int64)
        )
        return rows[:, :-1], rows[:, 1:]


def step_of(model: GPT, config: TrainingConfig) -> TrainingStep:
    """A training step on the CPU."""
    return TrainingStep(model, config, CPU, choose_autocast("auto", CPU), Ranks())


def shuffled(tokens: np.ndarray, config: TrainingConfig) -> ShuffledWindows:
    """Our batches."""
    return ShuffledWindows(tokens, config.block_size, config.batch_size, config.seed)


Windows = Callable[[np.ndarray, TrainingConfig], ShuffledWindows | RandomWindows]


def pretrain(tokens: np.ndarray, vocab_size: int) -> GPT:
    """A small GPT that knows tiny shakespeare."""
    shape = GPTConfig(
        vocab_size=vocab_size, block_size=PRETRAIN.block_size, n_layer=4, n_head=4, n_embd=128
    )
    model = GPT(shape).init_weights(PRETRAIN.seed)
    step, data = step_of(model, PRETRAIN), shuffled(tokens, PRETRAIN)
    for number in range(PRETRAIN.max_steps):
        step(number, data)
    return model


def with_dropout(start: GPT, dropout: float) -> GPT:
    """A copy of the pretrained network."""
    model = GPT(replace(start.config, dropout=dropout))
    model.load_state_dict(copy.deepcopy(start.state_dict()))
    return model


def nanogpt(start: GPT, train: np.ndarray, val: np.ndarray, config: TrainingConfig) -> float:
    """Exact val_loss of the checkpoint that nanoGPT's recipe keeps."""
    model = with_dropout(start, config.dropout)
    step, data = step_of(model, config), RandomWindows(train, config)
    best, exact = float("inf"), float("nan")
    for number in range(config.max_steps):
        step(number, data)  # type: ignore[arg-type]
        if (number + 1) % EVAL_INTERVAL == 0:
            estimate = random_batch_loss(
                model, val, 40, 4, config.block_size, seed=config.seed * 1000 + number
            )
            if estimate < best:
                best, exact = estimate, mean_loss(model, val)
    return exact


def ours(
    start: GPT,
    train: np.ndarray,
    val: np.ndarray,
    config: TrainingConfig,
    windows: Windows = shuffled,
) -> tuple[float, float]:
    """Best exact val_loss of our recipe, without and with an average of weights."""
    model = with_dropout(start, config.dropout)
    average = copy.deepcopy(model)
    step, data = step_of(model, config), windows(train, config)
    best, best_average = float("inf"), float("inf")
    for number in range(config.max_steps):
        step(number, data)  # type: ignore[arg-type]
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - AVERAGE_DECAY)
        if (number + 1) % EVAL_INTERVAL == 0:
            best = min(best, mean_loss(model, val))
            best_average = min(best_average, mean_loss(average, val))
    return best, best_average


def main(arguments: list[str] | None = None) -> None:
    """Train everything, print one line for each recipe and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bins", type=Path, help="token bins of the sample books")
    parser.add_argument("--shakespeare", type=Path, help="tiny shakespeare, a text file")
    options = parser.parse_args(arguments)
    if not (options.bins and options.shakespeare):
        print("recipe: skipped, --bins and --shakespeare name its data")
        return
    bins = TokenBins.open(options.bins)
    tokenizer = bins.tokenizer
    text = np.array(tokenizer.encode(options.shakespeare.read_text()), dtype=np.uint16)
    train, val = bins.tokens("train"), bins.tokens("val")
    start = pretrain(text, bins.meta.vocab_size)
    print(
        f"pretrained on {len(text):,} tokens; val_loss on the books {mean_loss(start, val):.4f}; ",
        end="",
    )
    print(f"{len(train):,} train and {len(val):,} val tokens", flush=True)
    best = {rate: compare(start, train, val, rate) for rate in RATES}
    rate = min(best, key=best.__getitem__)
    for change, settings in CHANGES.items():
        settings = settings | {
            name: rate * value for name, value in settings.items() if name == "min_learning_rate"
        }
        changed = replace(OURS, learning_rate=rate, **settings)  # type: ignore[arg-type]
        show(
            rate,
            f"ours, {change}",
            [ours(start, train, val, replace(changed, seed=seed))[0] for seed in SEEDS],
        )
    plain = replace(OURS, learning_rate=rate)
    drawn = [ours(start, train, val, replace(plain, seed=seed), RandomWindows)[0] for seed in SEEDS]
    show(rate, "ours, draws with replacement", drawn)


def compare(start: GPT, train: np.ndarray, val: np.ndarray, rate: float) -> float:
    """Print each recipe at one learning rate. returns: our mean val_loss"""
    constant = replace(NANOGPT, learning_rate=rate, min_learning_rate=rate)
    show(
        rate,
        "nanoGPT",
        [nanogpt(start, train, val, replace(constant, seed=seed)) for seed in SEEDS],
    )
    mine = [ours(start, train, val, replace(OURS, learning_rate=rate, seed=seed)) for seed in SEEDS]
    plain, averaged = (list(column) for column in zip(*mine, strict=True))
    show(rate, "ours", plain)
    show(rate, "ours, averaged weights", averaged)
    return statistics.mean(plain)


def show(rate: float, name: str, losses: list[float]) -> None:
    """Print a line: mean, spread, and each seed's loss."""
    shown = " ".join(f"{loss:.4f}" for loss in losses)
    print(
        f"{rate:g}  {name:28} {statistics.mean(losses):.4f} +- {statistics.stdev(losses):.4f}  "
        f"({shown})",
        flush=True,
    )


if __name__ == "__main__":
    main()
