import copy
import dataclasses

import numpy as np
import pytest
import torch

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import GPT2_SIZES, PRESETS, GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.training.micro_batches import CHANNEL_BYTES, most_that_fit
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.step import TrainingStep
from model.training.running import CONFIG

GB = 1e9


@pytest.mark.parametrize(
    ("preset", "size", "dtype", "room", "mine", "expected"),
    [
        ("finetune_sre_small", "gpt2", torch.bfloat16, 120 * GB, 32, 32),
        ("finetune_sre_small", "gpt2", torch.bfloat16, 8 * GB, 32, 8),
        # too little even for one: it is tried
        ("finetune_sre_small", "gpt2", torch.bfloat16, 0.1 * GB, 32, 1),
        ("finetune_sre_small", "gpt2", torch.bfloat16, 8 * GB, 3, 3),
        ("finetune_sre_small", "gpt2", torch.bfloat16, 8 * GB, 31, 1),
        ("finetune_sre_small", "gpt2", torch.bfloat16, 6 * GB, 32, 8),
        ("finetune_sre_small", "gpt2", None, 6 * GB, 32, 4),  # a third more for each token
        ("finetune_shakespeare", "gpt2-xl", torch.bfloat16, 90 * GB, 32, 16),
        ("train_sre_cpu", "gpt2", None, 120 * GB, 1, 1),
    ],
)
def test_as_many_micro_batches_as_divide_the_step_and_fit(
    preset, size, dtype, room, mine, expected
):
    assert most_that_fit(PRESETS[preset], GPT2_SIZES[size], room, mine, dtype) == expected


def kept_for_the_way_back(model, idx, dtype):
    """Bytes that a pass forward leaves to the pass back, weights left out."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None),
    ):
        hidden = model.hidden(idx)
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dtype", CHANNEL_BYTES)
def test_a_layer_keeps_no_more_for_each_token_and_channel_than_is_reckoned(dtype):
    """Eager, which keeps more than compiled; of three layers less one, without embeddings."""
    sizes, tokens, width = [], 4 * 256, 128
    for layers in (1, 3):
        config = GPTConfig(vocab_size=257, block_size=256, n_layer=layers, n_head=2, n_embd=width)
        model = GPT(config).init_weights(1).train()
        sizes.append(kept_for_the_way_back(model, torch.zeros(4, 256, dtype=torch.int64), dtype))
    kept = (sizes[1] - sizes[0]) / 2 / tokens / width  # 39.2 and 64.2
    assert 0.9 * CHANNEL_BYTES[dtype] < kept <= CHANNEL_BYTES[dtype]


def test_passes_of_several_micro_batches_give_the_gradients_of_one_by_one(tiny_gpt):
    config = dataclasses.replace(CONFIG, batch_size=2, grad_accum_steps=6, dropout=0.0)
    data = ShuffledWindows(np.arange(3000, dtype=np.uint16) % 257, 32, 2, seed=1)
    losses, weights = [], []
    for at_once in (1, 3, 6):
        model = copy.deepcopy(tiny_gpt)
        step = TrainingStep(model, config, torch.device("cpu"), None, Ranks())
        assert step.at_once == 1
        step.at_once = at_once
        losses.append([float(step(number, data)) for number in range(3)])
        weights.append(model.wte.weight.detach())
    for other in (1, 2):
        assert losses[other] == pytest.approx(losses[0], abs=1e-5)
        torch.testing.assert_close(weights[other], weights[0], atol=1e-4, rtol=0)
