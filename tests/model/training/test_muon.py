"""Muon: what it computes, which weights it takes, and its state on disk."""

import copy
import dataclasses
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from devopsgpt_model.train import train
from devopsgpt_model.training.muon import ADAMW_SCALE, Muon, orthogonalized
from devopsgpt_model.training.step import make_optimizer
from model.training.running import CONFIG, losses

MUON = dataclasses.replace(CONFIG, optimizer="muon")
IDX = torch.randint(257, (2, 32), generator=torch.Generator().manual_seed(3))


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def learn(model, config=MUON, steps=1):
    optimizer = make_optimizer(model, config)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(IDX, IDX.roll(-1, 1)).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 32, 128), (1, 128, 32)])
def test_singular_values_become_about_one_and_their_vectors_stay(shape):
    matrices = drawn(*shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    seen = left.mT @ orthogonalized(matrices) @ right.mT
    values = seen.diagonal(dim1=-2, dim2=-1)
    # the smallest of a square matrix are not brought up in five steps
    assert ((values > 0.6) & (values < 1.25)).float().mean() > 0.9
    assert (seen - torch.diag_embed(values)).abs().max() < 1e-3


def test_no_gradient_is_no_direction():
    assert torch.equal(orthogonalized(torch.zeros(1, 4, 8)), torch.zeros(1, 4, 8))


def test_it_goes_where_torchs_own_goes(tiny_gpt):
    """torch.optim.Muon multiplies in bfloat16 and takes no matrix apart."""
    theirs = copy.deepcopy(tiny_gpt)
    config = dataclasses.replace(MUON, learning_rate=1e-2, weight_decay=0.3)
    names = [f"h.{layer}.{end}.weight" for layer in (0, 1) for end in ("mlp.c_fc", "mlp.c_proj")]
    peer = torch.optim.Muon(
        [theirs.get_parameter(name) for name in names],
        **dict(lr=1e-2, weight_decay=0.3, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    )
    ours, before = make_optimizer(tiny_gpt, config), copy.deepcopy(tiny_gpt)
    for _ in range(3):
        ours.zero_grad()
        tiny_gpt.loss(IDX, IDX.roll(-1, 1)).backward()
        for name in names:
            theirs.get_parameter(name).grad = tiny_gpt.get_parameter(name).grad.clone()
        ours.step()
        peer.step()
    for name in names:
        start = before.get_parameter(name)
        way = tiny_gpt.get_parameter(name) - start
        other = theirs.get_parameter(name) - start
        assert (way - other).norm() < 0.05 * other.norm(), name


def test_queries_keys_and_values_are_made_orthogonal_apart(tiny_gpt):
    config = dataclasses.replace(MUON, weight_decay=0.0)
    before = tiny_gpt.h[0].attn.c_attn.weight.detach().clone()
    optimizer = make_optimizer(tiny_gpt, config)
    tiny_gpt.loss(IDX, IDX.roll(-1, 1)).backward()
    parts = tiny_gpt.h[0].attn.c_attn.weight.grad.chunk(3)
    optimizer.step()
    width = before.size(1)
    rate = config.learning_rate * ADAMW_SCALE * math.sqrt(width)
    for was, gradient, part in zip(
        before.chunk(3), parts, tiny_gpt.h[0].attn.c_attn.weight.chunk(3), strict=True
    ):
        expected = was - rate * orthogonalized(gradient[None])[0]
        torch.testing.assert_close(part, expected, atol=1e-6, rtol=0)


def test_matrices_of_the_blocks_are_its_own_and_only_matrices_decay(tiny_gpt):
    optimizer = make_optimizer(tiny_gpt, dataclasses.replace(MUON, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in tiny_gpt.named_parameters()}
    mine = {names[id(p)] for group in optimizer.matrices for p in group["params"]}
    assert mine == {name for name in names.values() if name[:2] == "h." and "ln_" not in name} - {
        name for name in names.values() if name.endswith("bias")
    }
    decays = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert set(decays) == set(names.values())  # each once, and none forgotten
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert {name for name, decay in decays.items() if decay} == mine | {"wte.weight", "wpe.weight"}


def test_a_parameter_without_a_gradient_is_left_as_it_is(tiny_gpt):
    still = tiny_gpt.h[0].mlp.c_fc.weight
    still.requires_grad_(False)
    before = still.clone()
    optimizer = learn(tiny_gpt)
    assert torch.equal(still, before)
    assert still not in optimizer.state


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_estimate_of_memory_is_what_the_moments_take(tiny_gpt, optimizer):
    made = learn(tiny_gpt, dataclasses.replace(CONFIG, optimizer=optimizer))
    assert made.name == optimizer
    assert made.moment_bytes == sum(
        value.nbytes for state in made.state.values() for key, value in state.items()
        if key != "step"
    )  # fmt: skip


def test_muon_keeps_half_as_much_of_a_matrix(tiny_gpt):
    made = make_optimizer(tiny_gpt, MUON)
    assert isinstance(made, Muon)
    theirs = make_optimizer(tiny_gpt, CONFIG).moment_bytes
    of_blocks = sum(p.numel() for p in tiny_gpt.h.parameters() if p.dim() == 2)
    assert made.moment_bytes == theirs - 4 * of_blocks


# what the code before Muon computed, and what Muon did when it came
@pytest.mark.parametrize(("optimizer", "val_loss"), [("adamw", 3.30233), ("muon", 3.30770)])
def test_the_seeded_val_loss_is_the_golden_one(job, optimizer, val_loss):
    job = dataclasses.replace(job, config=dataclasses.replace(CONFIG, optimizer=optimizer))
    assert train(job)["val_loss"] == pytest.approx(val_loss, abs=2e-4)


def test_a_state_of_the_other_optimizer_is_refused_in_a_sentence(job):
    train(job)
    before = losses(job)
    with pytest.raises(
        ValueError,
        match=r"state\.safetensors was saved by a training with optimizer=adamw, these settings "
        r"say optimizer=muon; change the setting back, or start in an empty folder",
    ):
        train(dataclasses.replace(job, config=MUON))
    assert losses(job) == before


def test_a_state_from_before_there_was_a_choice_is_adamws(job):
    train(job)
    state = job.out / "state.safetensors"
    with safe_open(state, "pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k != "optimizer"}
    save_file(load_file(state), state, metadata=metadata)
    with pytest.raises(ValueError, match="with optimizer=adamw, these settings say optimizer=muon"):
        train(dataclasses.replace(job, config=MUON))
    assert train(job)["steps_trained"] == CONFIG.max_steps


def test_other_settings_of_the_same_optimizer_start_anew_as_before(job):
    job = dataclasses.replace(job, config=MUON)
    train(job)
    facts = train(dataclasses.replace(job, config=dataclasses.replace(MUON, max_steps=10)))
    assert facts["steps_trained"] == 10
