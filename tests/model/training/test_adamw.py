import copy
import subprocess
import sys

import pytest
import torch

from devopsgpt_model.config import CHOICES, TrainingConfig
from devopsgpt_model.training.adamw import AdamW
from devopsgpt_model.training.step import make_optimizer


def test_it_computes_what_torch_does(tiny_gpt):
    twin = copy.deepcopy(tiny_gpt)
    matrices, rest = (
        [p for p in tiny_gpt.parameters() if (p.dim() >= 2) is yes] for yes in (True, False)
    )
    groups = [
        {"params": matrices, "lr": 1e-2, "weight_decay": 0.1},
        {"params": rest, "lr": 1e-2, "weight_decay": 0.0},
    ]
    ours = AdamW(groups, (0.9, 0.95))
    their_groups = [{**group, "params": [p for p in twin.parameters() if (p.dim() >= 2) is yes]}
                    for group, yes in zip(groups, (True, False), strict=True)]  # fmt: skip
    theirs = torch.optim.AdamW(their_groups, betas=(0.9, 0.95), fused=True)
    idx = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(3))
    for rate in (1e-2, 3e-3, 1e-3):
        for model, optimizer in ((tiny_gpt, ours), (twin, theirs)):
            for group in optimizer.param_groups:
                group["lr"] = rate
            model.loss(idx, idx.roll(-1, 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(
        torch.equal(*pair) for pair in zip(tiny_gpt.parameters(), twin.parameters(), strict=True)
    )
    for mine, other in zip(tiny_gpt.parameters(), twin.parameters(), strict=True):
        assert ours.state[mine].keys() == theirs.state[other].keys()
        assert all(
            torch.equal(ours.state[mine][key], theirs.state[other][key]) for key in ours.state[mine]
        )


def test_a_parameter_without_a_gradient_is_left_as_it_is():
    moved, still = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = AdamW([{"params": [moved, still], "lr": 0.1, "weight_decay": 0.5}], (0.9, 0.99))
    moved.sum().backward()
    optimizer.step()
    assert not torch.equal(moved, torch.ones(3))
    assert torch.equal(still, torch.ones(3))
    assert list(optimizer.state) == [moved]


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_a_step_does_not_import_the_compiler(optimizer):
    program = """
import sys
import torch
from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.step import TrainingStep
import numpy as np
model = GPT(GPTConfig(vocab_size=64, block_size=8, n_layer=1, n_head=1, n_embd=16)).init_weights(1)
config = TrainingConfig(block_size=8, batch_size=1, device="cpu", optimizer=sys.argv[1])
step = TrainingStep(model, config, torch.device("cpu"), None, Ranks())
print(step(0, ShuffledWindows(np.arange(60, dtype=np.uint16), 8, 1, 1)).isfinite().item())
sys.exit("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, optimizer], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_only_matrices_decay(tiny_gpt):
    groups = make_optimizer(tiny_gpt, TrainingConfig(weight_decay=0.3)).param_groups
    decays = {
        id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]
    }
    names = {name: decays[id(parameter)] for name, parameter in tiny_gpt.named_parameters()}
    assert {name for name, decay in names.items() if decay} == {
        name for name in names if name.endswith("weight") and "ln_" not in name
    }
    assert set(names.values()) == {0.0, 0.3}
