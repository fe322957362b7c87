"""A toy training under a launcher: its settings, its data, its losses."""

import dataclasses

from devopsgpt_model.config import TrainingConfig

TEXT = "a steady service answers; a slow service makes its users wait. " * 60
CONFIG = TrainingConfig(
    **dict(
        n_layer=1,
        n_head=2,
        n_embd=32,
        block_size=32,
        batch_size=2,
        grad_accum_steps=4,
        max_steps=12,
    ),
    **dict(
        eval_interval=6,
        log_interval=3,
        warmup_steps=2,
        device="cpu",
        dtype="float32",
        compile="off",
    ),
)
ENDLESS = dataclasses.replace(CONFIG, max_steps=1_000_000, eval_interval=1_000_000)


def losses(messages):
    return [(m["step"], m.get("train_loss", m.get("val_loss"))) for m in messages]
