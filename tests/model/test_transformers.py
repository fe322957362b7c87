"""Ours and transformers' GPT2LMHeadModel on the same weights: the same logits, the same
gradients."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from devopsgpt_model.checkpoint import CONV1D, PREFIX, hugging_face_config, import_weights
from devopsgpt_model.config import GPT2_SIZES, GPTConfig
from devopsgpt_model.gpt import GPT

LOGITS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3


def narrow(size, head_dim=8):
    """A size with its real depth, heads, vocabulary and context, and thin heads."""
    config = GPT2_SIZES[size]
    shape = dict(n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_head * head_dim)
    return GPTConfig(vocab_size=config.vocab_size, block_size=config.block_size, **shape)


def both(config):
    """Their network with random weights, biases and norms included, and ours filled from it."""
    torch.manual_seed(5)
    theirs = GPT2LMHeadModel(
        GPT2Config(**hugging_face_config(config, eot_id=0), attn_implementation="eager")
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    ours = GPT(config).eval()
    import_weights(ours, dict(theirs.state_dict()), "transformers")
    return ours, theirs


def compare(config, tokens):
    ours, theirs = both(config)
    idx = torch.randint(config.vocab_size, (2, tokens), generator=torch.Generator().manual_seed(3))
    logits, loss = ours(idx[:, :-1], idx[:, 1:])
    expected = theirs(idx[:, :-1], use_cache=False).logits
    torch.testing.assert_close(logits, expected, atol=LOGITS_TOLERANCE, rtol=0)
    expected_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), idx[:, 1:].flatten())
    assert loss.item() == pytest.approx(expected_loss.item(), abs=1e-5)
    loss.backward()
    expected_loss.backward()
    return gradient_errors(ours, theirs)


def gradient_errors(ours, theirs):
    """Of each parameter, the norm of the difference over the norm of their gradient."""
    wanted = {
        name.removeprefix(PREFIX): parameter.grad for name, parameter in theirs.named_parameters()
    }
    errors = {}
    for name, parameter in ours.named_parameters():
        gradient = (
            parameter.grad[: ours.config.vocab_size] if name == "wte.weight" else parameter.grad
        )
        expected = wanted[name].t() if name.endswith(CONV1D) else wanted[name]
        errors[name] = float((gradient - expected).norm() / expected.norm())
    return errors


@pytest.mark.parametrize("size", GPT2_SIZES)
def test_logits_and_gradients_are_those_of_transformers(size):
    errors = compare(narrow(size), tokens=24)
    assert max(errors.values()) < GRADIENT_TOLERANCE, max(errors, key=errors.get)


@pytest.mark.slow
# the larger two take more memory than a laptop has
@pytest.mark.parametrize("size", ["gpt2", "gpt2-medium"])
def test_logits_and_gradients_at_full_width_are_those_of_transformers(size):
    errors = compare(GPT2_SIZES[size], tokens=128)
    assert max(errors.values()) < GRADIENT_TOLERANCE, max(errors, key=errors.get)


def test_a_wrong_activation_would_be_seen():
    ours, theirs = both(narrow("gpt2"))
    for block in theirs.transformer.h:
        block.mlp.act = torch.nn.ReLU()
    idx = torch.arange(16)[None]
    with torch.no_grad():
        difference = (ours(idx)[0] - theirs(idx, use_cache=False).logits).abs().max()
    assert difference > 10 * LOGITS_TOLERANCE
