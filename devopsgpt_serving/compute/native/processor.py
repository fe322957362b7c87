"""What this processor has of the instructions that the C++ is written for."""

import torch

from devopsgpt_serving.compute.native.build import INSTRUCTIONS, NotCompiled, library


def instructions_for(precision: str) -> str | None:
    """The widest instructions that this processor has and that there is code in for a number
    format, or None."""
    cpu = torch.cpu
    has = {
        "avx512": cpu._is_avx512_supported()
        and {
            "float32": True,
            "bfloat16": cpu._is_avx512_bf16_supported(),
            "int8": cpu._is_vnni_supported(),
        }[precision],
        "avx2": cpu._is_avx2_supported(),
    }
    return next(
        (name for name, formats in INSTRUCTIONS.items() if has[name] and precision in formats), None
    )


def has_code(precision: str) -> bool:
    """Whether compiled code for a number format is here, or was to be had now."""
    instructions = instructions_for(precision)
    try:
        return instructions is not None and library(instructions, precision).exists()
    except NotCompiled:
        return False
