"""Triton's interpreter: its kernels computed by numpy, one program after another, on a CPU.

It is chosen when a kernel is defined, so a process of its own runs it.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

needs_triton = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="triton is not installed: no interpreter"
)


def interpret(code, paths=()):
    """Run a program that imports kernels. paths: where it finds modules. returns: what it
    printed"""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "TRITON_INTERPRET": "1", **_search(paths)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout


def _search(paths):
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
