import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from devopsgpt_model.device import choose_autocast, choose_device, has_triton, is_lost, starts

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "format"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, None),
        ({}, None),
    ],
)
def test_auto_multiplies_in_bfloat16_where_a_processor_does(monkeypatch, capabilities, format):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_autocast("auto", CPU) == format
    assert choose_autocast("bfloat16", CPU) == torch.bfloat16
    assert choose_autocast("float32", CPU) is None


@pytest.mark.parametrize("able", [True, False])
def test_auto_asks_a_gpu_for_what_it_does_itself(monkeypatch, able):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: able and not including_emulation,
    )
    assert (choose_autocast("auto", CUDA) == torch.bfloat16) == able


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="device 'cuda:77' is not to be had here, use auto or cpu"):
        choose_device("cuda:77")


# What Triton compiles before it launches anything on a GPU, and the sentence where it cannot.
FIRST_LAUNCH = """
from triton.backends.nvidia.driver import CudaUtils
from devopsgpt_model.device import starts
print(starts(CudaUtils))
"""


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize("compiler", ["/nothing/cc", "false"])
def test_without_a_c_compiler_or_python_h_a_sentence_stands_for_tritons_kernels(tmp_path, compiler):
    """/nothing/cc is not there; `false` fails, as gcc does without Python.h."""
    places = {"CC": compiler, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "libcuda.so.1").touch()  # Triton looks whether it is there, and compiles then
    answer = subprocess.run(
        [sys.executable, "-c", FIRST_LAUNCH],
        env={**os.environ, **places, "TRITON_LIBCUDA_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "False"
    told = [line for line in answer.stderr.splitlines() if "Triton does not start" in line]
    assert len(told) == 1
    assert compiler in told[0]
    assert "needs a C compiler" in told[0]


def test_what_starts_is_used_and_nothing_said(caplog):
    assert starts(lambda: None)
    assert not caplog.records


def test_a_cpu_has_no_kernels_of_ours_and_nothing_is_said(caplog):
    assert not has_triton(CPU)
    assert not caplog.records


def test_a_lost_gpu_is_no_reason_to_go_on_without_kernels():
    def launch():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        starts(launch)


def test_only_errors_that_no_later_call_survives_are_a_lost_gpu():
    short = torch.AcceleratorError("CUDA error: out of memory")
    short.error_code = 2
    assert is_lost(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    for error in (short, torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("a shape")):
        assert not is_lost(error)
