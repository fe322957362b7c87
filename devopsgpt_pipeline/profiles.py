"""Profiles: which library is read, how it is encoded and what is trained. DEVOPSGPT_PROFILE selects
one.

Every value is a default: the launchpad and the command line override it for one run,
DEVOPSGPT_TRAINING overrides the training settings for every run, unattended ones included.
"""

from dataclasses import dataclass, replace

from devopsgpt_model.config import TrainingConfig, changed, preset
from devopsgpt_pipeline.settings import Settings


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


def chosen_profile(settings: Settings) -> Profile:
    """The profile that the settings name, with their training.

    raises: ValueError for an unknown profile, preset or training setting
    """
    if settings.profile not in PROFILES:
        raise ValueError(
            f"unknown profile {settings.profile!r} in DEVOPSGPT_PROFILE; the profiles are "
            f"{', '.join(PROFILES)}"
        )
    profile, words = PROFILES[settings.profile], settings.training.split()
    if not words:
        return profile
    try:
        return replace(profile, training=changed(words[0], words[1:]))
    except ValueError as error:
        raise ValueError(f"DEVOPSGPT_TRAINING: {error}") from error
