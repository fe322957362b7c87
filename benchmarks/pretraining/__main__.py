"""Five seeds of ours against nanoGPT's best: `python -m benchmarks pretraining --seeds 5`.

The books' token bins (`devopsgpt run` writes them), the sample preset's network of 4 layers of 128,
both on this machine's CPU, each run a process of its own, taking turns. nanoGPT is train.py of
`--nanogpt`, a checkout: cosine decay to a tenth after a warm-up, its best of the learning rates and
dropouts below on the first two seeds. Ours is the sample preset, at as many steps and at its own
number of them.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.pretraining.nanogpt import Trained, program, train_nanogpt
from devopsgpt_model.config import TrainingConfig, preset
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.training.job import TrainingJob

RATES, DROPOUTS = (1e-3, 3e-3, 1e-2), (0.0, 0.1)
FIRST_SEED, SEARCHED_SEEDS = 1337, 2
STEPS = 450  # * 8 sequences * 256 = 921,600 tokens
GOAL_NATS, GOAL_SHARE = 0.08, 0.5
OURS = replace(preset("sample"), eval_interval=75, device="cpu")
# beta2 as its configuration for small batches has it; min_lr, below, as its comment says
NANOGPT = replace(OURS, max_steps=STEPS, eval_interval=50, warmup_steps=40, beta2=0.99)


class Bench:
    """Trainings one after the other, each in a folder of its own."""

    def __init__(self, checkout: Path, bins: TokenBins, place: Path) -> None:
        self.checkout, self.bins, self.place = checkout, bins, place
        self.numbers = itertools.count()

    def nanogpt(self, seed: int, rate: float, dropout: float) -> Trained:
        """Its train.py at one learning rate and dropout."""
        config = replace(NANOGPT, learning_rate=rate, min_learning_rate=rate / 10)
        config = replace(config, dropout=dropout, seed=seed)
        return train_nanogpt(self.checkout, self.bins, config, self._folder())

    def ours(self, config: TrainingConfig) -> Trained:
        """Our training command."""
        out = self._folder()
        job = TrainingJob(config=config, bins=self.bins.folder, out=out)
        settings = out / "train.json"
        job.write(settings)
        command = [sys.executable, "-m", "devopsgpt_model.train", "--config", str(settings)]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step_seconds"] for line in lines if "step_seconds" in line]
        facts = json.loads((out / "result.json").read_text())
        return Trained(facts["val_loss"], seconds, statistics.median(steps) * config.max_steps)

    def _folder(self) -> Path:
        folder = self.place / str(next(self.numbers))
        folder.mkdir()
        return folder


def search(bench: Bench, seeds: list[int]) -> tuple[float, float]:
    """Print nanoGPT's val_loss at each learning rate and dropout. returns: the best of them"""
    means = {}
    for rate, dropout in itertools.product(RATES, DROPOUTS):
        losses = [bench.nanogpt(seed, rate, dropout).val_loss for seed in seeds]
        means[rate, dropout] = statistics.mean(losses)
        shown = " ".join(f"{loss:.4f}" for loss in losses)
        print(f"nanoGPT at {rate:g}, dropout {dropout:g}: {shown}", flush=True)
    return min(means, key=means.__getitem__)


def compare(bench: Bench, seeds: list[int], best: tuple[float, float]) -> None:
    """Print a line for each seed, then whether the goals are met."""
    few = OURS.max_steps
    print(f"\nnanoGPT at {best[0]:g}, dropout {best[1]:g}; val_loss, seconds (of steps alone)")
    print(f"| seed | nanoGPT | ours, {STEPS} steps | apart | ours, {few} steps | apart ", end="")
    print("| nanoGPT s | ours s | of it |\n" + "|---" * 9 + "|")
    gains, gains_of_few, shares = [], [], []
    for seed in seeds:
        theirs = bench.nanogpt(seed, *best)
        equal, fewer = (
            bench.ours(replace(OURS, max_steps=steps, seed=seed)) for steps in (STEPS, few)
        )
        gains.append(theirs.val_loss - equal.val_loss)
        gains_of_few.append(theirs.val_loss - fewer.val_loss)
        shares.append((fewer.seconds / theirs.seconds, fewer.step_seconds / theirs.step_seconds))
        print(
            f"| {seed} | {theirs.val_loss:.4f} | {equal.val_loss:.4f} | {-gains[-1]:+.4f} "
            f"| {fewer.val_loss:.4f} | {-gains_of_few[-1]:+.4f} "
            f"| {theirs.seconds:.1f} ({theirs.step_seconds:.1f}) "
            f"| {fewer.seconds:.1f} ({fewer.step_seconds:.1f}) "
            f"| {shares[-1][0]:.2f} ({shares[-1][1]:.2f}) |",
            flush=True,
        )
    better = sum(gain >= GOAL_NATS for gain in gains)
    reached = sum(gain >= 0 for gain in gains_of_few)
    whole, steps_alone = (statistics.median(column) for column in zip(*shares, strict=True))
    print(
        f"\nat equal tokens {min(gains):.3f} to {max(gains):.3f} nats below nanoGPT; at least "
        f"{GOAL_NATS:g} for {better} of {len(seeds)} seeds\n"
        f"nanoGPT's val_loss in {few} steps for {reached} of {len(seeds)} seeds, in {whole:.2f} of "
        f"its time (median; {steps_alone:.2f} of its steps' alone), the goal is {GOAL_SHARE:g}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Search, then compare; or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bins", type=Path, default=Path(".devopsgpt/tokens/books"))
    parser.add_argument("--nanogpt", type=Path, default=Path("nanoGPT"), help="a checkout of it")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 1337 on")
    parser.add_argument(
        "--best",
        nargs=2,
        type=float,
        metavar=("RATE", "DROPOUT"),
        help="nanoGPT's best setting, where a search has found it",
    )
    options = parser.parse_args(arguments)
    missing = [str(each) for each in (options.bins, options.nanogpt) if not each.is_dir()]
    if missing:
        print(
            f"pretraining: skipped, there is no {' and no '.join(missing)}; --bins names token "
            "bins, --nanogpt a clone of https://github.com/karpathy/nanoGPT"
        )
        return
    program(options.nanogpt, FIRST_SEED)  # tell a wrong checkout now
    seeds = [FIRST_SEED + number for number in range(options.seeds)]
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(options.nanogpt, TokenBins.open(options.bins), Path(place))
        best = tuple(options.best) if options.best else search(bench, seeds[:SEARCHED_SEEDS])
        compare(bench, seeds, best)


if __name__ == "__main__":
    main()
