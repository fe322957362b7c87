"""Which processor computes, in which number format, and whether kernels of our own run there."""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CUDA_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def choose_device(wanted: str = "auto") -> torch.device:
    """raises: ValueError for a device that this machine does not have"""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise ValueError(
            f"device {wanted!r} is not to be had here, use auto or cpu: {error}"
        ) from error
    return device


def is_lost(error: Exception) -> bool:
    """Whether a GPU computes nothing more in this process after this error, whatever it is asked.

    Too little memory is not such an error; CUDA has a number for it.
    """
    out_of_memory = getattr(error, "error_code", None) == CUDA_OUT_OF_MEMORY
    return isinstance(error, torch.AcceleratorError) and not out_of_memory


@cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run on this device; where they could and do not, it is told once.

    Triton comes with torch for CUDA, but compiles a part of itself at its first launch: that takes
    a C compiler and Python.h, which a slim image has not.
    """
    if device.type != "cuda":
        return False
    if find_spec("triton") is None:
        log.warning("Triton is not installed: torch's own operations take the place of kernels")
        return False

    def launch() -> None:
        from devopsgpt_model.kernels.loss import loss_and_gradient_

        row, zero = torch.zeros(1, 64, device=device), torch.zeros(1, device=device)
        loss_and_gradient_(row, zero.long(), zero, 64)

    return starts(launch)


def starts(launch: Callable[[], object]) -> bool:
    """Whether a first launch succeeds; why not is logged. raises: what says that the GPU is lost"""
    try:
        launch()
    # what Triton raises differs with what is missing: OSError, CalledProcessError, RuntimeError
    except Exception as problem:
        if is_lost(problem):
            raise
        log.warning(
            "Triton does not start (%s: %.300s): torch's own operations take the place of kernels, "
            "slower. It needs a C compiler (gcc, or CC) and Python.h (python3-dev)",
            type(problem).__name__,
            problem,
        )
        return False
    return True


def send(batch: Tensor, device: torch.device) -> Tensor:
    """A batch on its device; from pinned memory the copy runs beside what a GPU computes, and
    nobody waits."""
    return (
        batch.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else batch.to(device)
    )


def choose_autocast(wanted: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, or None for float32 throughout; "auto" takes bfloat16 where the processor
    multiplies in it."""
    if wanted == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else None
    return torch.bfloat16 if wanted == "bfloat16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Matrix products in this format within the block; None leaves them in float32."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return not cpu_instructions().isdisjoint({"avx512_bf16", "amx_bf16"})
    return False


def cpu_instructions() -> frozenset[str]:
    """The instructions that this processor has, by torch's names ("avx512_f", "fma3"); none where
    torch is too old to tell."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return frozenset()
    # sizes and a name stand beside them
    return frozenset(name for name, has in torch.cpu.get_capabilities().items() if has is True)
