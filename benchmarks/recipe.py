"""val_loss of nanoGPT's fine-tuning recipe and of ours, at equal tokens.

A small GPT is pretrained on tiny shakespeare, then fine-tuned on token bins of the sample books,
with each recipe at each learning rate, three seeds each: `python -m benchmarks recipe --bins
HOME/tokens/books --shakespeare FILE --nanogpt CHECKOUT`.

nanoGPT: train.py of the checkout goes on from our weights: cosine decay to a tenth after a warm-up,
draws with replacement, the best of estimates on random batches is kept.
Ours: warm-up and decay to zero, shuffled windows, exact evaluations; with AdamW and with Muon, and
from weights that each of them pretrained. Then, at ours' best, ours with one thing changed at a
time.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.pretraining.nanogpt import program, train_nanogpt
from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import CHOICES, GPTConfig, TrainingConfig
from devopsgpt_model.device import choose_autocast
from devopsgpt_model.evaluate import mean_loss
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.step import TrainingStep

CPU = torch.device("cpu")
SEEDS = (1, 2, 3)
RATES, DROPOUTS = (1e-3, 3e-3, 1e-2), (0.0, 0.1)
EVAL_INTERVAL = 25
# 16 sequences * 128 = 2,048 tokens/step
PRETRAIN = TrainingConfig(
    block_size=128, batch_size=16, max_steps=600, dropout=0.0, compile="off", device="cpu"
)
OURS = replace(PRETRAIN, max_steps=150, warmup_steps=15, eval_interval=EVAL_INTERVAL)
CHANGES: dict[str, dict[str, float]] = {
    "dropout 0.1": {"dropout": 0.1},
    "dropout 0.2": {"dropout": 0.2},
    "weight decay 0.3": {"weight_decay": 0.3},
    "beta2 0.95": {"beta2": 0.95},
    "no warm-up": {"warmup_steps": 0},
    "decay to a tenth": {"min_learning_rate": 0.1},  # of the peak
    "constant rate": {"min_learning_rate": 1.0},
}


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


def pretrain(tokens: np.ndarray, vocab_size: int, optimizer: str) -> GPT:
    """A small GPT that knows tiny shakespeare."""
    shape = GPTConfig(
        vocab_size=vocab_size, block_size=PRETRAIN.block_size, n_layer=4, n_head=4, n_embd=128
    )
    model, config = GPT(shape).init_weights(PRETRAIN.seed), replace(PRETRAIN, optimizer=optimizer)
    step, data = step_of(model, config), shuffled(tokens, config)
    for number in range(config.max_steps):
        step(number, data)
    return model


def nanogpt(checkout: Path, start: GPT, bins: TokenBins, config: TrainingConfig) -> float:
    """Exact val_loss of the checkpoint that nanoGPT's train.py keeps."""
    with tempfile.TemporaryDirectory() as place:
        return train_nanogpt(checkout, bins, config, Path(place), start).val_loss


def ours(start: GPT, bins: TokenBins, config: TrainingConfig, windows: Windows = shuffled) -> float:
    """Best exact val_loss of our recipe."""
    model = GPT(replace(start.config, dropout=config.dropout))
    model.load_state_dict(copy.deepcopy(start.state_dict()))
    step, data = step_of(model, config), windows(bins.tokens("train"), config)
    val, best = bins.tokens("val"), float("inf")
    for number in range(config.max_steps):
        step(number, data)  # type: ignore[arg-type]
        if (number + 1) % EVAL_INTERVAL == 0:
            best = min(best, mean_loss(model, val))
    return best


def show(config: TrainingConfig, name: str, measure: Callable[[TrainingConfig], float]) -> float:
    """Measure each seed, print a line: mean, spread, and each seed's loss. returns: the mean"""
    losses = [measure(replace(config, seed=seed)) for seed in SEEDS]
    shown = " ".join(f"{loss:.4f}" for loss in losses)
    mean = statistics.mean(losses)
    print(
        f"{config.learning_rate:g}  {name:32} {mean:.4f} +- {statistics.stdev(losses):.4f}  "
        f"({shown})",
        flush=True,
    )
    return mean


def compare(start: GPT, bins: TokenBins, checkout: Path | None) -> TrainingConfig:
    """Print each recipe at each learning rate. returns: ours' best settings"""
    means = {}
    for rate in RATES:
        if checkout:
            for dropout in DROPOUTS:
                theirs = replace(OURS, learning_rate=rate, min_learning_rate=rate / 10)
                measure = partial(nanogpt, checkout, start, bins)
                show(replace(theirs, dropout=dropout), f"nanoGPT, dropout {dropout:g}", measure)
        for optimizer in CHOICES["optimizer"]:
            mine = replace(OURS, learning_rate=rate, optimizer=optimizer)
            means[mine] = show(mine, f"ours, {optimizer}", partial(ours, start, bins))
    return min(means, key=means.__getitem__)


def change(start: GPT, bins: TokenBins, best: TrainingConfig) -> None:
    """Print ours with one thing changed at a time."""
    rate = best.learning_rate
    for name, settings in CHANGES.items():
        settings = settings | {
            name: rate * value for name, value in settings.items() if name == "min_learning_rate"
        }
        changed = replace(best, **settings)  # type: ignore[arg-type]
        show(changed, f"{best.optimizer}, {name}", partial(ours, start, bins))
    drawn = partial(ours, start, bins, windows=RandomWindows)
    show(best, f"{best.optimizer}, draws with replacement", drawn)


def main(arguments: list[str] | None = None) -> None:
    """Train everything, print one line for each recipe and learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bins", type=Path, help="token bins of the sample books")
    parser.add_argument("--shakespeare", type=Path, help="tiny shakespeare, a text file")
    parser.add_argument(
        "--nanogpt", type=Path, help="a checkout of it; its rows are left out without"
    )
    parser.add_argument(
        "--pretrained-by",
        nargs="+",
        choices=CHOICES["optimizer"],
        default=CHOICES["optimizer"],
        help="what pretrains on tiny shakespeare; default: each in turn",
    )
    options = parser.parse_args(arguments)
    if not (options.bins and options.shakespeare):
        print("recipe: skipped, --bins and --shakespeare name its data")
        return
    if options.nanogpt:
        program(options.nanogpt, SEEDS[0])  # tell a wrong checkout now
    bins = TokenBins.open(options.bins)
    text = np.array(bins.tokenizer.encode(options.shakespeare.read_text()), dtype=np.uint16)
    for optimizer in options.pretrained_by:
        start = pretrain(text, bins.meta.vocab_size, optimizer)
        print(
            f"pretrained by {optimizer} on {len(text):,} tokens; val_loss on the books "
            f"{mean_loss(start, bins.tokens('val')):.4f}; {len(bins.tokens('train')):,} train and "
            f"{len(bins.tokens('val')):,} val tokens",
            flush=True,
        )
        best = compare(start, bins, options.nanogpt)
        if optimizer == options.pretrained_by[0]:
            change(start, bins, best)


if __name__ == "__main__":
    main()
