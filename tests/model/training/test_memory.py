import platform
import subprocess
import sys

import pytest

from devopsgpt_model import train
from devopsgpt_model.train import keep_freed_memory

PAGES = """
import resource, torch
from devopsgpt_model.train import keep_freed_memory

def pages_of_the_last():
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = pages_of_the_last()
keep_freed_memory()
print(default, pages_of_the_last())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_that_was_freed_is_used_again():
    answer = subprocess.run(
        [sys.executable, "-c", PAGES], capture_output=True, text=True, check=True
    )
    mapped_anew, kept = map(int, answer.stdout.split())
    assert mapped_anew > 10_000_000 * 4 // 4096 // 2
    assert kept < mapped_anew // 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(train.ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
    monkeypatch.setattr(train.sys, "platform", "darwin")
    keep_freed_memory()
