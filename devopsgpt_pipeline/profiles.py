"""Profiles: which library is read, how it is encoded and what is trained. DEVOPSGPT_PROFILE selects
one.

Every value is a default: the launchpad and the command line can override it for one run, and
DEVOPSGPT_TRAINING the training settings for every run, those with no hand on them among them.
"""

import os
from dataclasses import dataclass, replace

from devopsgpt_model.config import TrainingConfig, changed, preset


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One way to run the chain."""

    name: str

    tokenizer: str
    """"gpt2", or "bpe" for a byte-level BPE trained on the training chapters."""

    vocab_size: int
    """Ids of a trained BPE; 257 is plain bytes. Not used with the gpt2 tokenizer."""

    held_out_fraction: float
    """Share of chapters kept from training, chosen by a hash of book and slug."""

    training: TrainingConfig
    """What training does unless a run says otherwise."""


PROFILES = {
    "sample": Profile(
        name="sample",
        tokenizer="bpe",
        vocab_size=2048,
        held_out_fraction=0.12,
        training=preset("sample"),
    ),
    "sre": Profile(
        name="sre",
        tokenizer="gpt2",
        vocab_size=50257,
        held_out_fraction=0.1,
        training=preset("finetune_sre_small"),
    ),
}


def profile_from_environment() -> Profile:
    """The profile that DEVOPSGPT_PROFILE names, by default `sample`, with the settings of
    DEVOPSGPT_TRAINING.

    DEVOPSGPT_TRAINING: a preset and changes to it, as in `finetune_sre max_steps=200`
    raises: ValueError for an unknown profile, preset or setting
    """
    name = os.environ.get("DEVOPSGPT_PROFILE") or "sample"
    if name not in PROFILES:
        raise ValueError(
            f"unknown profile {name!r} in DEVOPSGPT_PROFILE; the profiles are {', '.join(PROFILES)}"
        )
    words = os.environ.get("DEVOPSGPT_TRAINING", "").split()
    if not words:
        return PROFILES[name]
    try:
        return replace(PROFILES[name], training=changed(words[0], words[1:]))
    except ValueError as error:
        raise ValueError(f"DEVOPSGPT_TRAINING: {error}") from error
