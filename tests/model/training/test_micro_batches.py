import copy
import dataclasses

import numpy as np
import pytest
import torch

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import GPT2_SIZES, PRESETS
from devopsgpt_model.training.micro_batches import most_that_fit
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.step import TrainingStep
from model.training.running import CONFIG

GB = 1e9


@pytest.mark.parametrize(
    ("preset", "size", "room", "mine", "expected"),
    [
        ("finetune_sre_small", "gpt2", 120 * GB, 32, 32),
        ("finetune_sre_small", "gpt2", 8 * GB, 32, 8),
        ("finetune_sre_small", "gpt2", 0.1 * GB, 32, 1),  # too little even for one: it is tried
        ("finetune_sre_small", "gpt2", 8 * GB, 3, 3),
        ("finetune_sre_small", "gpt2", 8 * GB, 31, 1),
        ("finetune_shakespeare", "gpt2-xl", 90 * GB, 32, 16),
        ("train_sre_cpu", "gpt2", 120 * GB, 1, 1),
    ],
)
def test_as_many_micro_batches_as_divide_the_step_and_fit(preset, size, room, mine, expected):
    assert most_that_fit(PRESETS[preset], GPT2_SIZES[size], room, mine) == expected


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
