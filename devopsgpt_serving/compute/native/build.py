"""Compiles the C++ beside this file, once for each number format and processor, and finds what was
compiled before.

    python devopsgpt_serving/compute/native/build.py

compiles everything, as the image of the service does, and needs g++ alone.

Compiled code lies beside its source, as Python's own does, under a name that changes with the
source.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
COMPILED = SOURCES / "compiled"
# what a processor has, from the widest, and the number formats that there is code for, with the
# compiler's options
INSTRUCTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "avx512": {"float32": (), "bfloat16": ("-mavx512bf16",), "int8": ("-mavx512vnni",)},
    "avx2": {"float32": (), "int8": ()},
}
LEVEL = {"avx512": "-march=x86-64-v4", "avx2": "-march=x86-64-v3"}
# contracting a multiplication and an addition as the compiler likes would make a token's numbers
# depend on how many others stand beside it
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fopenmp")
# it takes 2: readiness waits for it, and torch's operators do the same half as fast
TIMEOUT_S = 20.0


class NotCompiled(Exception):
    """No compiled code for this machine; says why."""


def library(instructions: str, precision: str) -> Path:
    """The compiled code for a number format, compiled now where it was not before (2 s).

    raises: NotCompiled
    """
    options = (
        *FLAGS,
        LEVEL[instructions],
        *INSTRUCTIONS[instructions][precision],
        f"-DFORMAT_{precision.upper()}",
    )
    path = COMPILED / f"{precision}-{instructions}-{_fingerprint(options)}.so"
    if not path.exists():
        _compile(options, path)
    return path


def _fingerprint(options: tuple[str, ...]) -> str:
    content = hashlib.sha256(repr(options).encode())
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        content.update(source.read_bytes())
    return content.hexdigest()[:12]


def _compile(options: tuple[str, ...], path: Path) -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise NotCompiled(
            f"it is written for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
        )
    compiler = shutil.which("g++")
    if compiler is None:
        raise NotCompiled("there is no g++ to compile it")
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            half, whole = f"{place}/half.o", f"{place}/whole.so"
            _run(compiler, *options, "-c", str(SOURCES / "gpt.cpp"), "-o", half)
            # linked without OpenMP: torch's is in the process already, and a second one would be a
            # second team
            _run(compiler, "-shared", half, "-o", whole)
            os.replace(whole, path)
    except OSError as error:
        raise NotCompiled(
            f"{error.filename or COMPILED} cannot be written: {error.strerror}"
        ) from error
    log.info("compiled", extra={"library": path.name})


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NotCompiled(f"{command[0]} did not finish within {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise NotCompiled(f"{command[0]} failed: {done.stderr.strip()[:500]}")


if __name__ == "__main__":
    try:
        for instructions, formats in INSTRUCTIONS.items():
            for precision in formats:
                print(library(instructions, precision))
    except NotCompiled as problem:
        sys.exit(f"nothing was compiled: {problem}")
