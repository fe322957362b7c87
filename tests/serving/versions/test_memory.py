"""How much memory a version needs, and how much there is: read from a tree of files like the
kernel's."""

import subprocess
import sys

import pytest

from devopsgpt_model import threads
from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPT2_SIZES, GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.versions.memory import available_bytes, check_fits, needed_bytes

V2 = "sys/fs/cgroup/"
V1 = "sys/fs/cgroup/memory/"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "ROOT", tmp_path)

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)

    write({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\nHugePages_Free: 0\n"})
    return write


def test_without_a_limit_it_is_the_machines(machine):
    assert available_bytes() == 8000 * 1024
    machine({"proc/self/cgroup": "0::/pod\n", V2 + "pod/memory.max": "max\n"})
    machine({V2 + "pod/memory.current": "1000\n"})
    assert available_bytes() == 8000 * 1024


def test_a_limit_counts_less_what_is_used_and_not_given_back(machine):
    machine({"proc/self/cgroup": "0::/pod/container\n", V2 + "pod/memory.max": "5000000\n"})
    machine({V2 + "pod/memory.current": "4000000\n", V2 + "pod/container/memory.max": "max\n"})
    machine({V2 + "pod/memory.stat": "anon 1\ninactive_file 500000\n"})
    assert available_bytes() == 1_500_000


def test_a_container_sees_its_own_group_as_the_root(machine):
    machine({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "5000000"})
    machine({V2 + "memory.current": "6000000"})
    assert available_bytes() == 0


def test_limits_of_version_1_count(machine):
    machine({"proc/self/cgroup": "9:cpu:/\n4:memory:/pod\n"})
    machine({V1 + "pod/memory.limit_in_bytes": "3000000\n", V1 + "memory.limit_in_bytes": "9" * 19})
    machine({V1 + "pod/memory.usage_in_bytes": "1000000\n", V1 + "memory.usage_in_bytes": "1\n"})
    assert available_bytes() == 2_000_000


def test_a_system_that_tells_nothing_sets_no_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "ROOT", tmp_path)
    assert available_bytes() is None
    check_fits(10**18, None)


def test_what_does_not_fit_is_told_with_a_remedy():
    check_fits(10**9, 10**9)
    with pytest.raises(MemoryError, match=r"about 2 GB of memory and 1 GB are available; raise"):
        check_fits(2 * 10**9, 10**9)


def test_gpt2_takes_what_was_measured(tmp_path):
    """1.99 GB in float32 and 1.76 in int8, with 8 rows."""
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(498_000_000)
    assert 1.99e9 < needed_bytes(GPT2_SIZES["gpt2"], weights, 8, 4) < 1.1 * 1.99e9
    assert 1.76e9 < needed_bytes(GPT2_SIZES["gpt2"], weights, 8, 2) < 1.1 * 1.76e9


PEAK = """
from pathlib import Path
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import loader

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

load = loader("cpu", {precision!r}, 4)
before = kilobytes("VmRSS:")
load(Version("m", "1", "", 0), Path({folder!r}))
print((kilobytes("VmHWM:") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_loading_takes_no_more_than_is_estimated(tmp_path, precision):
    config = GPTConfig(vocab_size=257, block_size=256, n_layer=8, n_head=8, n_embd=768)
    save_checkpoint(tmp_path / "model", GPT(config).init_weights(1), Tokenizer.plain_bytes(), {})
    code = PEAK.format(precision=precision, folder=str(tmp_path))
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    needed = needed_bytes(config, tmp_path / "model" / "model.safetensors", 4, 4)
    # threads and libraries that are loaded on the way come to it
    assert 0.5 * needed < int(answer.stdout) < needed + 150e6
