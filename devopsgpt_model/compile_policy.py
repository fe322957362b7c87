"""Whether torch.compile earns its own time back. Decided from settings alone: a resumed run must decide the same."""

import os
from pathlib import Path

import torch

from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.gpt import GPT

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# FLOP/s that eager training reaches, rounded; the order of magnitude decides, not the digit.
EAGER_FLOPS = {"cpu": 200e9, "cuda": 200e12}
SAVED = 0.15  # share of a step's time that compiling saves, measured on a CPU: docs/performance.md
BASE_SECONDS, LAYER_SECONDS = 8.0, 2.0  # 12 layers took 32 s on 2 cores with an empty cache


def compile_pays(config: TrainingConfig, model: GPT, device: torch.device) -> bool:
    """The `compile` setting; `auto` compiles where the time saved is more than a cold compilation costs."""
    if config.compile != "auto":
        return config.compile == "on"
    if device.type not in EAGER_FLOPS:
        return False
    tokens = config.max_steps * config.grad_accum_steps * config.batch_size * config.block_size
    seconds = 6 * model.parameter_count() * tokens / EAGER_FLOPS[device.type]
    return seconds * SAVED > BASE_SECONDS + LAYER_SECONDS * model.config.n_layer


def keep_compiled_code(folder: Path) -> None:
    """Compiled code goes to this folder, where the next run finds it, unless the environment names another."""
    os.environ.setdefault(CACHE_VARIABLE, str(folder))
