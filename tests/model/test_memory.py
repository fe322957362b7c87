import platform
import subprocess
import sys

import pytest

from devopsgpt_model import memory
from devopsgpt_model.memory import keep_freed_memory

PAGES = """
import resource, sys, torch
from devopsgpt_model.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(40):
    before = faults()
    torch.ones(20_000_000)
print(faults() - before)
"""


def pages_of_the_last_tensor(how):
    answer = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_memory_that_was_freed_is_used_again():
    pages = 20_000_000 * 4 // 4096
    assert pages_of_the_last_tensor("kept") < pages // 10
    assert pages_of_the_last_tensor("default") > pages // 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    keep_freed_memory()
