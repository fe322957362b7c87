"""How many of a step's micro-batches go through the network in one pass.

Settings name micro-batches that fit a small GPU. A large one would idle: one of 1,024 tokens keeps
an H200 busy for less time than it takes to launch. Passes of several give the same gradients, but
for the order of their sums.
"""

import torch

from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.training.muon import Optimizer

ENOUGH_TOKENS = 32_768  # of a pass; more made an H200 no faster
# Bytes that a pass takes for each token, of each layer's channel and of each row of the head.
# Measured on an H200 with bfloat16: 27 to 36 and 4; docs/performance.md. In float32 a pass keeps
# 64.2 for the way back (tests/model/training/test_micro_batches.py). Left free is what the
# allocator loses between its pieces.
CHANNEL_BYTES, HEAD_BYTES = {torch.bfloat16: 40, None: 66}, 4
USED_SHARE = 0.85
# of each parameter, beside the optimizer's moments: gradient and the best weights so far, float32
STATE_BYTES = 8


def micro_batches_at_once(
    config: TrainingConfig,
    model: GPT,
    optimizer: Optimizer,
    device: torch.device,
    mine: int,
    shards: int,
    dtype: torch.dtype | None,
) -> int:
    """The most that divide a process's share of a step and fit its GPU; 1 on a CPU, which gains
    nothing.

    mine: micro-batches of this process in a step; shards: processes that the optimizer's state is
    split over; dtype: that products take, None for float32
    """
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    state = STATE_BYTES * sum(parameter.numel() for parameter in model.parameters())
    room = USED_SHARE * free - (state + optimizer.moment_bytes) / shards
    return most_that_fit(config, model.config, room, mine, dtype)


def most_that_fit(
    config: TrainingConfig, shape: GPTConfig, room: float, mine: int, dtype: torch.dtype | None
) -> int:
    """As micro_batches_at_once. room: bytes that a pass may take"""
    tokens = config.batch_size * config.block_size
    token_bytes = (
        CHANNEL_BYTES[dtype] * shape.n_layer * shape.n_embd + HEAD_BYTES * shape.padded_vocab_size
    )
    most = min(ENOUGH_TOKENS, room / token_bytes) // tokens
    return max(count for count in range(1, mine + 1) if mine % count == 0 and count <= max(1, most))
