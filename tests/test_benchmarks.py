"""The benchmarks start, and compare what they say they compare."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import REPOSITORY

from benchmarks._nanogpt import NanoGPT
from devopsgpt_model.gpt import GPT


def test_the_peer_has_as_many_parameters_and_starts_at_as_high_a_loss(tiny_gpt):
    # a multiple of 64: the peer counts padding in its loss
    config = replace(tiny_gpt.config, vocab_size=320)
    ours, theirs = GPT(config).init_weights(1), NanoGPT(config)
    assert sum(each.numel() for each in theirs.parameters()) == sum(
        each.numel() for each in ours.parameters()
    )
    idx = torch.randint(
        config.vocab_size, (4, config.block_size + 1), generator=torch.Generator().manual_seed(1)
    )
    inputs, targets = idx[:, :-1].contiguous(), idx[:, 1:].contiguous()
    with torch.no_grad():
        _, expected = theirs(inputs, targets)
        assert ours.loss(inputs, targets).item() == pytest.approx(expected.item(), abs=0.2)


@pytest.mark.slow
def test_training_is_compared():
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "training",
        "--case",
        "6x384",
        "--only",
        "nanogpt",
        "ours",
    ]
    answer = subprocess.run(
        [*command, "--turns", "1"], cwd=REPOSITORY, capture_output=True, text=True, timeout=110
    )
    assert answer.returncode == 0, answer.stderr
    found = re.findall(r"^(nanogpt|ours) +\d+ +([\d.]+)", answer.stdout, re.MULTILINE)
    ratio = {name: float(ratio) for name, ratio in found}
    assert ratio["nanogpt"] == 1.0
    assert ratio["ours"] > 0
