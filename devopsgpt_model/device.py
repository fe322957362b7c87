"""Which processor computes, and in which number format."""

import torch
from torch import Tensor

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
