"""How a part of benchmarks.gpu tells what it measured."""

import json
import time
from collections.abc import Callable

import torch

CUDA = torch.cuda.is_available()


def row(what: str, value: str | float, unit: str = "") -> None:
    """Print one thing measured, at once: a part that is cut off keeps what it said."""
    print(json.dumps({"what": what, "value": value, "unit": unit}), flush=True)


def milliseconds(work: Callable[[], object], turns: int) -> float:
    """Of one turn, after some that are not counted; a GPU is waited for at the end."""
    for _ in range(3 if CUDA else 0):
        work()
    if CUDA:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(turns):
        work()
    if CUDA:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / turns * 1e3
