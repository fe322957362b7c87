"""Whether torch.compile earns its own time back. No clock decides: a resumed run must decide the
same."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.gpt import GPT

CACHE_VARIABLE, TRITON_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"


@dataclass(frozen=True)
class Measured:
    """What compiling costs and saves. eager_flops: of eager steps, each second; saved: share of
    their time;
    seconds: a cold compilation, of any number of layers."""

    eager_flops: float
    saved: float
    seconds: float


# docs/performance.md, Compiling. cpu: 2 cores with avx512_bf16, 6 layers of 384 and 12 of 768
# alike. cuda: one H200, 12 layers of 768.
MEASURED = {"cpu": Measured(265e9, 0.03, 20.0), "cuda": Measured(315e12, 0.18, 7.1)}


def compile_pays(
    config: TrainingConfig, model: GPT, device: torch.device, dtype: torch.dtype | None
) -> bool:
    """The `compile` setting; `auto` compiles where the time saved is more than a cold compilation
    costs.

    In float32 on a CPU none is saved: the eager loss is faster than the compiler's, and all else is
    matrix products.
    """
    if config.compile != "auto":
        return config.compile == "on"
    if device.type not in MEASURED or (device.type == "cpu" and dtype is None):
        return False
    measured = MEASURED[device.type]
    tokens = config.max_steps * config.grad_accum_steps * config.batch_size * config.block_size
    seconds = 6 * model.config.parameter_count * tokens / measured.eager_flops
    return seconds * measured.saved > measured.seconds


def keep_compiled_code(folder: Path) -> None:
    """Compiled code goes to this folder, where the next run finds it, unless the environment names
    another."""
    if CACHE_VARIABLE not in os.environ:
        os.environ[CACHE_VARIABLE] = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # what is in use is young: code that is only read would be cleared away for its age
        os.utime(folder)
    # Inductor sets it too, but loads Triton's driver first, and that from HOME: in a container a
    # /tmp without exec
    os.environ.setdefault(TRITON_CACHE_VARIABLE, os.path.join(os.environ[CACHE_VARIABLE], "triton"))
