"""What only a GPU can show of training; needs nothing but devopsgpt_model. `python -m pytest -m gpu
tests/gpu`"""

import dataclasses
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from devopsgpt_model import loss
from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.config import GPT2_SIZES, GPTConfig, TrainingConfig
from devopsgpt_model.evaluate import summed_loss
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.train import train
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.saver import SnapshotWriter
from devopsgpt_model.training.step import LossOf, TrainingStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA GPU"),
]
CONFIG = TrainingConfig(
    n_layer=2,
    n_head=2,
    n_embd=32,
    block_size=32,
    batch_size=4,
    grad_accum_steps=2,
    max_steps=20,
    eval_interval=10,
)


@contextmanager
def sync_debug_mode(mode):
    """Torch tells of every wait for the GPU within the block. Setting the mode warns, too: that it
    is a prototype, and after the mode is set."""

    def set_mode(mode):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode(mode)

    set_mode(mode)
    try:
        yield
    finally:
        set_mode("default")


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_step_and_a_save_never_wait_for_the_gpu(compiled):
    device = torch.device("cuda")
    model = GPT(
        GPTConfig(vocab_size=257, block_size=32, n_layer=2, n_head=2, n_embd=64, dropout=0.1)
    ).to(device)
    config = dataclasses.replace(CONFIG, compile=compiled)
    step = TrainingStep(model, config, device, torch.bfloat16, Ranks())
    data = ShuffledWindows(np.arange(2000, dtype=np.uint16) % 257, 32, 4, seed=1)
    with SnapshotWriter(device) as saver:
        for number in range(2):  # the first ones compile, and get their memory
            step(number, data)
            saver.save(
                ((name, each.detach()) for name, each in model.named_parameters()),
                lambda copy: None,
            )
        with sync_debug_mode("error"):
            for number in range(2, 5):
                step(number, data)
                saver.save(
                    ((name, each.detach()) for name, each in model.named_parameters()),
                    lambda copy: None,
                )


def test_what_is_saved_from_a_gpu_is_the_moment_of_the_save():
    weights, written = torch.zeros(10_000_000, device="cuda"), []
    with SnapshotWriter(weights.device) as saver:
        for _ in range(3):
            saver.save([("w", weights)], lambda copy: written.append(float(copy["w"].mean())))
            weights += 1
    assert written == [0.0, 1.0, 2.0]


def test_a_run_on_a_gpu_learns_what_one_on_a_cpu_learns(tmp_path):
    documents = {
        "train": [("t", "a slow service makes its users wait. " * 90)],
        "val": [("v", "users wait. " * 20)],
    }
    write_token_bins(tmp_path / "bins", "toy", Tokenizer.plain_bytes(), documents)

    def learn(device):
        config = dataclasses.replace(CONFIG, device=device, dropout=0.0)
        return train(TrainingJob(config=config, bins=tmp_path / "bins", out=tmp_path / device))[
            "val_loss"
        ]

    assert learn("cuda") == pytest.approx(learn("cpu"), rel=0.02)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_the_kernel_of_the_loss_computes_what_cross_entropy_does(dtype, tolerance):
    generator = torch.Generator("cuda").manual_seed(1)
    logits = (torch.randn(300, 50304, device="cuda", generator=generator) * 3).to(dtype)
    targets = torch.randint(50257, (300,), device="cuda", generator=generator)
    targets[7], targets[8] = loss.IGNORED, 50256
    plain = logits[:, :50257].float().requires_grad_()
    expected = F.cross_entropy(plain, targets, ignore_index=loss.IGNORED)
    expected.backward()
    share = (targets != loss.IGNORED) / (targets != loss.IGNORED).sum()
    total = loss._kernel_for(logits.device)(logits, targets, share, 50257)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (logits[:, :50257].float() - plain.grad).norm() <= tolerance * plain.grad.norm()
    assert not logits[:, 50257:].any()
    assert not logits[7].any()


@pytest.mark.parametrize("size", GPT2_SIZES)
def test_a_compiled_pass_of_every_size_has_the_loss_and_gradients_of_an_eager_one(size):
    with torch.device("cuda"):
        model = GPT(GPT2_SIZES[size]).init_weights(1)
    idx = torch.randint(50257, (2, 1024), generator=torch.Generator().manual_seed(1)).cuda()
    losses, norms = [], []
    for compiled in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            result = LossOf(model, compiled)(idx, idx.roll(-1, 1))
        result.backward()
        losses.append(result.item())
        norms.append([parameter.grad.norm().item() for parameter in model.parameters()])
        model.zero_grad()
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_an_evaluation_in_bfloat16_does_not_round_its_logits():
    """Logits near -110, as GPT-2's are, lie 0.5 apart in bfloat16."""
    generator = torch.Generator("cuda").manual_seed(1)
    hidden = torch.randn(500, 768, device="cuda", generator=generator).bfloat16()
    hidden[:, 0] = 110.0
    weight = (torch.randn(50304, 768, device="cuda", generator=generator) / 28).bfloat16()
    weight[:, 0] = -1.0
    targets = torch.randint(50257, (500,), device="cuda", generator=generator)
    logits = hidden.float().cpu() @ weight.float().cpu()[:50257].t()
    expected = F.cross_entropy(logits, targets.cpu(), reduction="none")
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        losses = loss.token_losses(hidden.float(), weight.float(), targets, 50257)
    torch.testing.assert_close(losses.cpu(), expected, atol=1e-3, rtol=0)


def test_an_evaluation_waits_for_the_gpu_once():
    model = (
        GPT(GPTConfig(vocab_size=257, block_size=32, n_layer=2, n_head=2, n_embd=64))
        .init_weights(1)
        .cuda()
    )
    tokens = np.arange(20_000, dtype=np.uint16) % 257
    summed_loss(model, tokens)  # the first one gets its memory
    with sync_debug_mode("warn"), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        summed_loss(model, tokens)
    assert len([each for each in told if "synchronizing" in str(each.message)]) == 1
