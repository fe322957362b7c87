"""The loss kernel against torch's cross_entropy; tests/gpu has it on a GPU."""

import json

import pytest

from model.kernels.interpreting import interpret, needs_triton

PROGRAM = """
import json, torch
from torch.nn import functional as F
from devopsgpt_model.kernels.loss import loss_and_gradient_
from devopsgpt_model.loss import IGNORED

for vocab_size, width, kind in [(50257, 50304, "float32"), (50257, 50304, "bfloat16"),
                                (257, 320, "float32"), (4096, 4096, "float32")]:
    dtype, generator = getattr(torch, kind), torch.Generator().manual_seed(1)
    logits = (torch.randn(5, width, generator=generator) * 3).to(dtype)
    logits[:, vocab_size:] = float("nan")  # padding never takes part, whatever it holds
    targets = torch.tensor([3, IGNORED, vocab_size - 1, 100, 0])
    share = (targets != IGNORED) / 4
    plain = logits[:, :vocab_size].float().requires_grad_()
    expected = F.cross_entropy(plain, targets, ignore_index=IGNORED)
    expected.backward()
    total = loss_and_gradient_(logits, targets, share, vocab_size)
    off = (logits[:, :vocab_size].float() - plain.grad).norm() / plain.grad.norm()
    print(json.dumps([kind, abs(total.item() - expected.item()), off.item(),
                      bool(logits[:, vocab_size:].any()), bool(logits[1].any())]))
"""


@needs_triton
def test_the_kernel_computes_what_cross_entropy_does():
    lines = [json.loads(line) for line in interpret(PROGRAM).splitlines()]
    assert [kind for kind, *_ in lines] == ["float32", "bfloat16", "float32", "float32"]
    for kind, loss_off, gradient_off, padding, ignored in lines:
        assert loss_off == pytest.approx(0, abs=2e-5)
        assert gradient_off <= (5e-3 if kind == "bfloat16" else 2e-6)
        assert not padding
        assert not ignored
