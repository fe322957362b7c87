"""nanoGPT's training recipe, written anew from how its model.py and train.py work: the peer of
benchmarks.training.

Separate output projection tied to the embedding, full logits and their loss, random windows, AdamW
(fused on CUDA only), gradient clipping at 1.0; float32 on a CPU, bfloat16 autocast on CUDA.
"""

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from devopsgpt_model.config import GPTConfig


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, c: GPTConfig) -> None:
        super().__init__()
        self.n_head = c.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(c.n_embd), nn.LayerNorm(c.n_embd)
        self.c_attn, self.attn_proj = (
            nn.Linear(c.n_embd, 3 * c.n_embd),
            nn.Linear(c.n_embd, c.n_embd),
        )
        self.c_fc, self.mlp_proj = (
            nn.Linear(c.n_embd, 4 * c.n_embd),
            nn.Linear(4 * c.n_embd, c.n_embd),
        )
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> (B, T, C)"""
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(C, dim=2)
        q, k, v = (
            each.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for each in (q, k, v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        out: Tensor = x + self.mlp_proj(self.gelu(self.c_fc(self.ln_2(x))))
        return out


class NanoGPT(nn.Module):
    """Its model: the logits of every position, and their loss."""

    def __init__(self, c: GPTConfig) -> None:
        super().__init__()
        self.wte, self.wpe = (
            nn.Embedding(c.padded_vocab_size, c.n_embd),
            nn.Embedding(c.block_size, c.n_embd),
        )
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd)
        self.lm_head = nn.Linear(c.n_embd, c.padded_vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.dim() >= 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, idx: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """idx, targets: int64 (B, T) -> logits (B, T, V), loss"""
        x = self.wte(idx) + self.wpe(torch.arange(idx.size(1), device=idx.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(
            logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1
        )


class NanoGPTStep:
    """Its step, as its loop takes it: `batch()` draws random windows, `__call__` trains on `accum`
    of them."""

    def __init__(
        self,
        config: GPTConfig,
        tokens: np.ndarray,
        batch_size: int,
        accum: int,
        device: str,
        compiled: bool,
    ) -> None:
        self.config, self.tokens, self.batch_size, self.accum, self.device = (
            config,
            tokens,
            batch_size,
            accum,
            device,
        )
        with torch.device(device):
            self.model = NanoGPT(config)
        decay = [p for p in self.model.parameters() if p.dim() >= 2]
        rest = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
        fused = {"fused": True} if device == "cuda" else {}
        self.optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), **fused)
        self.step_model = torch.compile(self.model) if compiled else self.model
        self.autocast = (
            torch.autocast("cuda", dtype=torch.bfloat16) if device == "cuda" else nullcontext()
        )
        self.next = self.batch()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 (batch_size, block_size)"""
        size = self.config.block_size
        starts = torch.randint(len(self.tokens) - size, (self.batch_size,))
        x = torch.stack(
            [torch.from_numpy(self.tokens[i : i + size].astype(np.int64)) for i in starts]
        )
        y = torch.stack(
            [torch.from_numpy(self.tokens[i + 1 : i + 1 + size].astype(np.int64)) for i in starts]
        )
        if self.device == "cuda":
            return x.pin_memory().to("cuda", non_blocking=True), y.pin_memory().to(
                "cuda", non_blocking=True
            )
        return x, y

    def __call__(self) -> Tensor:
        for _ in range(self.accum):
            with self.autocast:
                _, loss = self.step_model(*self.next)
                loss = loss / self.accum
            self.next = self.batch()
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()
