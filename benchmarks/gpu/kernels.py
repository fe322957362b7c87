"""What might make a training step faster, each beside what is there, with equal gradients: the loss
kernel's block, attention's backend, the compiler's options."""

import copy
import os
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.rows import CUDA, milliseconds, row
from devopsgpt_model.config import GPT2_SIZES, GPTConfig
from devopsgpt_model.gpt import GPT

DEVICE = "cuda" if CUDA else "cpu"
VOCABULARY, WIDTH = (50257, 50304) if CUDA else (4097, 4160)
TOKENS = 32_768 if CUDA else 4
TURNS = 20 if CUDA else 1
SMALL = GPTConfig(vocab_size=257, block_size=64, n_layer=1, n_head=2, n_embd=64)


def kernels() -> None:
    """Every kind, one after the other; one that fails is told and the others go on."""
    failed = []
    for kind in (loss_kernel, attention_backends, compiler_options):
        try:
            kind()
        # whatever a kernel or its compiler raises, the other kinds are measured, too
        except Exception as problem:
            failed.append(f"{kind.__name__}: {problem!r:.200}")
        if CUDA:
            torch.cuda.empty_cache()
    if failed:
        raise SystemExit("\n".join(failed))


def loss_kernel() -> None:
    """Blocks and warps of the loss kernel, each with the gradients of torch's operations."""
    if find_spec("triton") is None:
        row("the loss kernel: Triton is not installed", "")
        return
    if not CUDA:
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernel is defined
    from devopsgpt_model.kernels import loss as kernel
    from devopsgpt_model.loss import loss_and_gradient_

    generator = torch.Generator(DEVICE).manual_seed(1)
    logits = torch.randn(TOKENS, WIDTH, device=DEVICE, generator=generator).bfloat16()
    targets = torch.randint(VOCABULARY, (TOKENS,), device=DEVICE, generator=generator)
    share = torch.full((TOKENS,), 1 / TOKENS, device=DEVICE)
    expected = logits[:256].clone()
    loss_and_gradient_(expected, targets[:256], share[:256], VOCABULARY)
    chosen = kernel.BLOCK, kernel.WARPS
    tried = [(2048, 4), (2048, 8), (4096, 16), (8192, 8), (8192, 16), (16384, 16)]
    for block, warps in [chosen, *(tried if CUDA else [(8192, 8)])]:
        kernel.BLOCK, kernel.WARPS = block, warps
        work = logits.clone()
        spend = partial(kernel.loss_and_gradient_, work, targets, share, VOCABULARY)
        spend()
        off = _off(work[:256], expected)
        took = milliseconds(spend, TURNS)
        row(f"loss, {block} columns, {warps} warps (gradients {off:.1e} off)", took, "ms")


def _off(got: Tensor, expected: Tensor) -> float:
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def attention_backends() -> None:
    """A layer's attention, there and back."""
    batch, length, heads = (32, 1024, 12) if CUDA else (1, 64, 2)
    dtype = torch.bfloat16 if CUDA else torch.float32
    drawn = torch.randn(batch, length, 3, heads, 64, device=DEVICE, dtype=dtype)
    q, k, v = (each.requires_grad_() for each in drawn.permute(2, 0, 3, 1, 4).detach().unbind())
    up = torch.randn_like(q)

    def both() -> None:
        y: Any = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y.backward(up)
        q.grad = k.grad = v.grad = None

    row("attention of a layer, as chosen", milliseconds(both, TURNS), "ms")
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)[: 2 if CUDA else 1]:
        with sdpa_kernel(backend):
            row(f"attention of a layer, {backend.name}", milliseconds(both, TURNS), "ms")


def compiler_options() -> None:
    """A block of 124M, there and back; its gradients against the eager ones."""
    shape = GPT2_SIZES["gpt2"] if CUDA else SMALL
    with torch.device(DEVICE):
        block: Any = GPT(shape).init_weights(1).h[0]
        x = torch.randn(32 if CUDA else 2, shape.block_size, shape.n_embd)
    up = torch.randn_like(x)

    def gradient(run: Any) -> Tensor:
        at = x.detach().requires_grad_()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            y = run(at)
        y.backward(up)
        if at.grad is None:
            raise RuntimeError("a pass back left no gradient")
        return at.grad

    expected = gradient(block)
    row("a block, eager", milliseconds(lambda: gradient(block), TURNS), "ms")
    tuned: dict[str, Any] = {"coordinate_descent_tuning": True}
    options: list[dict[str, Any]] = [
        {},
        tuned,
        {**tuned, "triton.multi_kernel": 1},
        {"combo_kernels": True},
    ]
    for each in options if CUDA else options[:1]:
        torch._dynamo.reset()
        run = torch.compile(copy.deepcopy(block), fullgraph=True, options=each)
        off = _off(gradient(run), expected)
        took = milliseconds(partial(gradient, run), TURNS)
        row(f"a block, compiled with {each or 'no option'} (gradients {off:.1e} off)", took, "ms")
