import pytest
import torch
from torch.nn import functional as F

from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.loss import (
    IGNORED,
    PIECE,
    ROWS,
    loss_and_gradient_,
    next_token_loss,
    token_losses,
)


@pytest.fixture
def batch():
    """More tokens than one chunk, some of them ignored."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(257, (10, 64), generator=generator)
    targets[3, 10:] = IGNORED
    return torch.randint(257, (10, 64), generator=generator), targets


def gradients(model, loss):
    model.zero_grad()
    (loss / 3).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-6), (True, 1e-2)])
def test_loss_and_gradients_are_those_of_the_plain_form(tiny_gpt, batch, autocast, tolerance):
    assert batch[0].numel() > max(2 * ROWS, PIECE)
    plain = tiny_gpt(*batch)[1]
    expected = gradients(tiny_gpt, plain)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = tiny_gpt.loss(*batch)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5 if not autocast else 2e-3)
    for name, gradient in gradients(tiny_gpt, loss).items():
        assert (gradient - expected[name]).norm() <= 1e-6 + tolerance * expected[name].norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_too_unlikely_for_a_float32_has_its_loss(dtype):
    logits = torch.zeros(ROWS + 1, 4, dtype=dtype)
    logits[-1, 0] = 256.0
    loss = loss_and_gradient_(
        logits, torch.ones(ROWS + 1, dtype=torch.int64), torch.eye(ROWS + 1)[-1], 4
    )
    assert loss.item() == 256.0
    assert logits[-1].tolist() == [1.0, -1.0, 0.0, 0.0]
    assert not logits[:-1].any()


def test_rows_of_padding_get_no_gradient(batch):
    model = GPT(
        GPTConfig(vocab_size=257, block_size=64, n_layer=1, n_head=2, n_embd=32)
    ).init_weights(1)
    model.loss(*batch).backward()
    assert model.wte.weight.shape[0] > 257
    assert not model.wte.weight.grad[257:].any()
    assert model.wte.weight.grad[:257].any()


@pytest.mark.parametrize(("autocast", "size"), [(True, 4096 * 4096 * 2), (False, PIECE * 4096 * 4)])
def test_the_float32_logits_of_all_tokens_are_never_held(autocast, size):
    """size: bytes of all logits in bfloat16, of a piece's in float32"""
    hidden = torch.randn(4096, 16, requires_grad=True)
    weight = torch.randn(4096, 16, requires_grad=True)
    with (
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
        ) as profile,
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        next_token_loss(hidden, weight, torch.zeros(4096, dtype=torch.int64), 4096).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 1.1 * size


def test_losses_token_by_token_are_those_of_whole_logits(tiny_gpt, batch):
    assert batch[0].numel() > 2 * ROWS
    with torch.no_grad():
        logits, mean = tiny_gpt(*batch)
        losses = tiny_gpt.loss(*batch, token_losses)
    expected = F.cross_entropy(
        logits.flatten(0, 1), batch[1].flatten(), ignore_index=IGNORED, reduction="none"
    )
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert losses[batch[1].flatten() == IGNORED].eq(0).all()
    assert losses.sum() / (batch[1] != IGNORED).sum() == pytest.approx(mean.item(), abs=1e-5)
