"""How much memory a copy of a state takes on the host: torch rounds each pinned tensor up."""

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from devopsgpt_model.config import GPT2_SIZES
from devopsgpt_model.gpt import GPT
from devopsgpt_model.training.saver import ChunkPlan, Memory
from devopsgpt_model.training.state import save_tensors


@pytest.mark.parametrize("best_is_another", [False, True])
@pytest.mark.parametrize("size", GPT2_SIZES)
def test_the_chunks_of_a_state_are_a_twelfth_larger_than_it_at_most(size, best_is_another):
    with torch.device("meta"):
        weights = [each.numel() * 4 for each in GPT(GPT2_SIZES[size]).parameters()]
    tensors = [part for weight in weights for part in (weight, 4, weight, weight)]
    tensors += weights if best_is_another else []
    plan = ChunkPlan()
    for tensor in tensors:
        plan.place(tensor)
    assert sum(plan.sizes) <= sum(tensors) * 13 / 12
    assert all(each.bit_count() == 1 for each in plan.sizes)  # torch rounds these no more


def test_no_two_tensors_share_a_byte():
    plan, sizes = ChunkPlan(), [1, 100, 64, 5000, 3, 2**20, 7, 2**16 + 1, 12] * 5
    taken = {}
    for size in sizes:
        chunk, begin = plan.place(size)
        assert begin % 64 == 0
        assert begin + size <= plan.sizes[chunk]
        taken.setdefault(chunk, []).append((begin, begin + size))
    for spans in taken.values():
        spans.sort()
        assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_tensors_of_one_chunk_are_written_and_read(tmp_path):
    memory = Memory(pinned=False)
    tensors = {
        "matrix": torch.randn(70, 33),
        "scalar": torch.tensor(3.5),
        "ids": torch.arange(9),
        "half": torch.randn(5).bfloat16(),
        "none": torch.empty(0, 4),
    }
    copies = {name: memory.empty_like(each).copy_(each) for name, each in tensors.items()}
    save_tensors(tmp_path / "state", copies, {})
    for name, each in load_file(tmp_path / "state").items():
        assert torch.equal(each, tensors[name])
