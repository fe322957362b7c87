import pytest
import torch

from devopsgpt_model.device import choose_autocast, choose_device

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
