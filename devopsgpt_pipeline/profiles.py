"""Profiles: which library is read, how it is encoded and what is trained. DEVOPSGPT_PROFILE selects one.

Every value is a default: the launchpad and the command line can override it for one run.
"""

import os
from dataclasses import dataclass

from devopsgpt_model.config import TrainingConfig, preset


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

    preset: str
    """Training settings, by name."""

    @property
    def training(self) -> TrainingConfig:
        return preset(self.preset)


PROFILES = {
    "sample": Profile(name="sample", tokenizer="bpe", vocab_size=2048, held_out_fraction=0.12, preset="sample"),
    "sre": Profile(name="sre", tokenizer="gpt2", vocab_size=50257, held_out_fraction=0.1, preset="finetune_sre_small"),
}


def profile_from_environment() -> Profile:
    """The profile that DEVOPSGPT_PROFILE names, by default `sample`. raises: ValueError for an unknown name"""
    name = os.environ.get("DEVOPSGPT_PROFILE") or "sample"
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r} in DEVOPSGPT_PROFILE; the profiles are {', '.join(PROFILES)}")
    return PROFILES[name]
