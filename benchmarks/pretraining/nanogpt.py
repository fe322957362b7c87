"""nanoGPT itself: train.py of a checkout on our token bins, the checkpoint that it keeps measured
by our exact pass.

Nothing of it is written anew; but for the seed, which it has as a constant, its file runs as it is.
"""

import contextlib
import importlib.util
import io
import os
import pickle
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.evaluate import mean_loss
from devopsgpt_model.gpt import GPT
from devopsgpt_model.loss import IGNORED, HeadLoss
from devopsgpt_model.token_bins import TokenBins

SEED_LINE = "torch.manual_seed(1337 + seed_offset)"
ESTIMATE_BATCHES = 20  # of each split, as its README has it for a CPU
OPTIONS = {  # its name of a setting, and ours
    **{name: name for name in ("n_layer", "n_head", "n_embd", "block_size", "batch_size")},
    **{name: name for name in ("dropout", "learning_rate", "weight_decay", "beta1", "beta2")},
    **{"grad_clip": "grad_clip", "eval_interval": "eval_interval", "warmup_iters": "warmup_steps"},
    **{"max_iters": "max_steps", "lr_decay_iters": "max_steps", "min_lr": "min_learning_rate"},
    "gradient_accumulation_steps": "grad_accum_steps",
}


@dataclass(frozen=True)
class Trained:
    """How a training ended. val_loss: exact, nats/token; seconds: of its process; step_seconds: of
    its steps alone, without start and evaluations."""

    val_loss: float
    seconds: float
    step_seconds: float


class Measured(nn.Module):
    """Its network, as our evaluation asks one."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.wte = network.transformer.wte

    def loss(self, idx: Tensor, targets: Tensor, _: HeadLoss) -> Tensor:
        """idx, targets: int64 (B, T) -> loss of each token, 0 where it is ignored"""
        logits, _loss = self.network(idx, targets)
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )


def train_nanogpt(
    checkout: Path, bins: TokenBins, config: TrainingConfig, place: Path, start: GPT | None = None
) -> Trained:
    """Run its train.py. place: an empty folder to work in; start: weights to go on from

    raises: ValueError for a checkout that is not as expected, RuntimeError where training failed
    """
    data, out = place / "data", place / "out"
    for folder in (data, out):
        folder.mkdir(parents=True)
    for split in ("train", "val"):
        (data / f"{split}.bin").symlink_to((bins.folder / f"{split}.bin").resolve())
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": bins.meta.vocab_size}))
    (place / "train.py").write_text(program(checkout, config.seed))
    if start:
        save_start(model_of(checkout), start, config, out / "ckpt.pt")
    options = {"dataset": data.resolve(), "out_dir": out.resolve(), "device": "cpu"}
    options |= {"compile": False, "always_save_checkpoint": False, "eval_iters": ESTIMATE_BATCHES}
    options |= {name: getattr(config, ours) for name, ours in OPTIONS.items()}
    options["init_from"] = "resume" if start else "scratch"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, place / "train.py", *(f"--{k}={v}" for k, v in options.items())],
        cwd=checkout,  # it reads configurator.py there
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"nanoGPT's train.py failed: {done.stderr.strip()[-2000:]}")
    seconds = time.monotonic() - began
    times = [float(ms) for ms in re.findall(r"^iter \d+: .*time ([\d.]+)ms", done.stdout, re.M)]
    return Trained(
        kept_loss(model_of(checkout), out / "ckpt.pt", bins),
        seconds,
        # steps with an evaluation are longer; the median is of one without
        statistics.median(times) / 1000 * config.max_steps,
    )


def program(checkout: Path, seed: int) -> str:
    """Its train.py with another seed. raises: ValueError for a file without the line that sets
    it"""
    file = checkout / "train.py"
    text = file.read_text() if file.exists() else ""
    if text.count(SEED_LINE) != 1:
        raise ValueError(
            f"{file} must be nanoGPT's, with the line {SEED_LINE!r}; git clone "
            "https://github.com/karpathy/nanoGPT and name its folder"
        )
    return text.replace(SEED_LINE, SEED_LINE.replace("1337", str(seed)))


def model_of(checkout: Path) -> ModuleType:
    """Its model.py, imported."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"{checkout / 'model.py'} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_start(model: ModuleType, start: GPT, config: TrainingConfig, path: Path) -> None:
    """Our weights as a checkpoint that its train.py resumes, before its first step."""
    shape = start.config
    arguments = {name: getattr(shape, name) for name in ("n_layer", "n_head", "n_embd")}
    arguments |= {"block_size": shape.block_size, "vocab_size": shape.vocab_size}
    arguments |= {"bias": True, "dropout": config.dropout}
    weights = {f"transformer.{name}": weight for name, weight in start.state_dict().items()}
    embedding = weights["transformer.wte.weight"][: shape.vocab_size].clone()
    weights |= {"transformer.wte.weight": embedding, "lm_head.weight": embedding}
    with contextlib.redirect_stdout(io.StringIO()):
        network = model.GPT(model.GPTConfig(**arguments))
        network.load_state_dict(weights)
        optimizer = network.configure_optimizers(
            config.weight_decay, config.learning_rate, (config.beta1, config.beta2), "cpu"
        )
    content = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
    content |= {"model_args": arguments, "iter_num": 0, "best_val_loss": torch.tensor(1e9)}
    torch.save(content, path)


def kept_loss(model: ModuleType, checkpoint: Path, bins: TokenBins) -> float:
    """Exact val_loss of the checkpoint that it kept."""
    kept = torch.load(checkpoint)
    with contextlib.redirect_stdout(io.StringIO()):
        network = model.GPT(model.GPTConfig(**kept["model_args"]))
    network.load_state_dict(kept["model"])
    measured: Any = Measured(network)
    return mean_loss(measured, bins.tokens("val"))
