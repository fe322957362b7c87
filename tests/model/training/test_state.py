"""What a state on disk must hold, so that a run that goes on from it is the same run."""

import re

import pytest
import torch

from devopsgpt_model.training.adamw import AdamW
from devopsgpt_model.training.state import restore, save_tensors, state_tensors


@pytest.fixture
def trained(tiny_gpt):
    """A network and its optimizer after one step."""
    optimizer = AdamW(
        [{"params": list(tiny_gpt.parameters()), "lr": 1e-3, "weight_decay": 0.0}],
        betas=(0.9, 0.99),
    )
    idx = torch.arange(40)[None]
    tiny_gpt.loss(idx, idx + 1).backward()
    optimizer.step()
    return tiny_gpt, optimizer


def test_a_state_with_every_moment_is_saved_and_read(trained, tmp_path):
    model, optimizer = trained
    save_tensors(tmp_path / "state", dict(state_tensors(model, optimizer)), {})
    moments = {each: dict(state) for each, state in optimizer.state.items()}
    optimizer.state.clear()
    restore(tmp_path / "state", model, optimizer)
    for parameter, state in moments.items():
        for key, value in state.items():
            assert torch.equal(optimizer.state[parameter][key], value)


def test_a_state_before_the_first_step_has_no_moments_and_is_saved_and_read(tiny_gpt, tmp_path):
    optimizer = AdamW([{"params": list(tiny_gpt.parameters())}], betas=(0.9, 0.99))
    save_tensors(tmp_path / "state", dict(state_tensors(tiny_gpt, optimizer)), {})
    restore(tmp_path / "state", tiny_gpt, optimizer)
    assert optimizer.state == {}


def test_a_trained_weight_without_moments_is_not_saved(trained):
    model, optimizer = trained
    del optimizer.state[model.wte.weight]
    with pytest.raises(RuntimeError, match=re.escape("wte.weight have none")):
        dict(state_tensors(model, optimizer))


def test_a_state_without_the_moments_of_a_weight_is_not_gone_on_from(trained, tmp_path):
    model, optimizer = trained
    tensors = dict(state_tensors(model, optimizer))
    old = {name: each for name, each in tensors.items() if not name.startswith("optimizer.ln_f")}
    save_tensors(tmp_path / "state", old, {})
    with pytest.raises(ValueError, match=r"no moments of ln_f.bias, ln_f.weight: .* remove it"):
        restore(tmp_path / "state", model, optimizer)


def test_a_weight_that_is_not_trained_needs_no_moments(trained, tmp_path):
    model, optimizer = trained
    del optimizer.state[model.wte.weight]
    model.wte.weight.requires_grad_(False)
    save_tensors(tmp_path / "state", dict(state_tensors(model, optimizer)), {})
    restore(tmp_path / "state", model, optimizer)
    assert model.wte.weight not in optimizer.state
