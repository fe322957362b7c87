"""What this processor has of the instructions that the C++ is written for."""

from functools import cache
from pathlib import Path

from devopsgpt_serving.compute.native.build import INSTRUCTIONS, NotCompiled, library

CPUINFO = Path("/proc/cpuinfo")
# x86-64-v4 and x86-64-v3, which build.LEVEL compiles for
NEEDED = {
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "avx2": {"abm", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
}
NEEDED_FOR = {("avx512", "bfloat16"): "avx512_bf16", ("avx512", "int8"): "avx512_vnni"}


@cache
def processor_flags() -> frozenset[str]:
    """What Linux says that this processor has; nothing where there is no Linux."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def instructions_for(precision: str) -> str | None:
    """The widest instructions that this processor has and that there is code in for a number
    format, or None."""
    flags = processor_flags()
    for name, formats in INSTRUCTIONS.items():
        needed = NEEDED[name] | {NEEDED_FOR.get((name, precision), "fma")}
        if precision in formats and needed <= flags:
            return name
    return None


def has_code(precision: str) -> bool:
    """Whether compiled code for a number format is here, or can be compiled now."""
    instructions = instructions_for(precision)
    try:
        return instructions is not None and library(instructions, precision).exists()
    except NotCompiled:
        return False
