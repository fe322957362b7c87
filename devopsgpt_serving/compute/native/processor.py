"""What this processor has of the instructions that the C++ is written for."""

from devopsgpt_model.device import cpu_instructions
from devopsgpt_serving.compute.native.build import INSTRUCTIONS, NotCompiled, library

# x86-64-v4 and x86-64-v3, which build.LEVEL compiles for, by torch's names
NEEDED = {
    "avx512": {"avx512_f", "avx512_bw", "avx512_cd", "avx512_dq", "avx512_vl"},
    "avx2": {"avx2", "bmi", "bmi2", "f16c", "fma3", "lzcnt"},
}
NEEDED_FOR = {
    ("avx512", "bfloat16"): {"avx512_bf16"},
    ("avx512", "int8"): {"avx512_vnni"},
}


def instructions_for(precision: str) -> str | None:
    """The widest instructions that this processor has and that there is code in for a number
    format, or None."""
    has = cpu_instructions()
    for name, formats in INSTRUCTIONS.items():
        needed = NEEDED[name] | NEEDED_FOR.get((name, precision), set())
        if precision in formats and needed <= has:
            return name
    return None


def has_code(precision: str) -> bool:
    """Whether compiled code for a number format is here, or can be compiled now."""
    instructions = instructions_for(precision)
    try:
        return instructions is not None and library(instructions, precision).exists()
    except NotCompiled:
        return False
