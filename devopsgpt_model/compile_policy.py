"""Whether torch.compile earns its own time back. Decided from settings alone: a resumed run must decide the same."""

import os
from pathlib import Path

import torch

from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.gpt import GPT

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# FLOP/s of eager steps. cpu: 300e9 to 440e9 on 2 cores with avx512_bf16. cuda: an assumption, not measured.
EAGER_FLOPS = {"cpu": 400e9, "cuda": 200e12}
SAVED = 0.2  # share of an eager step's time: 19% (12 layers of 768) to 28% (6 of 384) on that CPU
# A cold compilation took 19.1 s for 6 layers and 23.6 s for 12; `make bench NAME=compiling`, docs/performance.md.
BASE_SECONDS, LAYER_SECONDS = 14.6, 0.75


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
