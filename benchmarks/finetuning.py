"""What a person waits for: a fine-tuning preset from token bins to the saved best checkpoint,
start-up included.

`python -m benchmarks.finetuning --text FILE`: the text is cut 90 to 10, the start is a GPT-2 of
random weights, which takes as long as OpenAI's. Needs only what devopsgpt_model needs, and GPT-2's
tokenizer files.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPT2_SIZES, PRESETS, GPTConfig, TrainingConfig
from devopsgpt_model.device import choose_device
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.training.job import TrainingJob


def prepare(home: Path, text: str, tokenizer: Tokenizer, shape: GPTConfig) -> None:
    """Token bins and a checkpoint of random weights, where `measure` looks for them."""
    cut = len(text) * 9 // 10
    documents = {"train": [("train", text[:cut])], "val": [("val", text[cut:])]}
    write_token_bins(home / "bins", "text", tokenizer, documents)
    save_checkpoint(home / "start", GPT(shape).init_weights(1), tokenizer, {})


def measure(home: Path, config: TrainingConfig, label: str) -> dict[str, float]:
    """Run the training command once. returns: where its time went, in seconds"""
    out = home / label
    job = TrainingJob(config=config, bins=home / "bins", out=out, init_checkpoint=home / "start")
    out.mkdir(parents=True)
    job.write(out / "train.json")
    began = time.time()
    subprocess.run(
        [sys.executable, "-m", "devopsgpt_model.train", "--config", str(out / "train.json")],
        check=True,
    )
    wall = time.time() - began
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    reports = [line for line in lines if "step_seconds" in line]
    ends = [0, *(line["step"] for line in reports)]
    steps = sum(
        line["step_seconds"] * (line["step"] - end)
        for line, end in zip(reports, ends, strict=False)
    )
    first, last = lines[0]["time"] - began, wall - (lines[-1]["time"] - began)
    return {
        "in all": wall,
        "to the first evaluation's end": first,
        "of steps": steps,
        "of evaluations and saves between them": wall - first - steps - last,
        "to end and save": last,
    }


def show(label: str, times: dict[str, float]) -> None:
    """Print one run's."""
    print(f"{label}: " + "; ".join(f"{seconds:.1f} s {what}" for what, seconds in times.items()))


def main(arguments: list[str] | None = None) -> None:
    """The preset without a compiler and, where one is asked for, with an empty cache and with a
    full one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="a file about as long as the books, 1.5 MB")
    parser.add_argument("--preset", choices=PRESETS, default="finetune_sre_small")
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--compiled", action="store_true", help="measure it compiled, too")
    options = parser.parse_args(arguments if arguments is not None else sys.argv[1:])
    if not options.text:
        print("finetuning: skipped, --text names its text")
        return
    config = dataclasses.replace(
        PRESETS[options.preset], device=str(choose_device()), compile="off"
    )
    if options.steps:
        config = dataclasses.replace(config, max_steps=options.steps)
    with tempfile.TemporaryDirectory() as place:
        text, shape = options.text.read_text(), GPT2_SIZES[config.init_from]
        prepare(Path(place), text, Tokenizer.gpt2(), shape)
        show("eager", measure(Path(place), config, "eager"))
        if options.compiled:
            config = dataclasses.replace(config, compile="on")
            show("compiled-cold", measure(Path(place), config, "compiled-cold"))
            config = dataclasses.replace(config, seed=config.seed + 1)
            show("compiled-cached", measure(Path(place), config, "compiled-cached"))


if __name__ == "__main__":
    main()
