"""The benchmarks start, and compare what they say they compare."""

import math
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from benchmarks._nanogpt import NanoGPT
from benchmarks.pretraining.nanogpt import OPTIONS, SEED_LINE, program, train_nanogpt
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.evaluate import mean_loss
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer

NANOGPT = os.environ.get("NANOGPT", "")


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


def test_the_peer_is_nanogpts_own_file_and_another_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train\.py must be nanoGPT's, with the line"):
        program(tmp_path, seed=7)
    (tmp_path / "train.py").write_text(f"import torch\n{SEED_LINE}\nprint('begin')\n")
    assert program(tmp_path, seed=7) == (
        "import torch\ntorch.manual_seed(7 + seed_offset)\nprint('begin')\n"
    )


def test_each_of_nanogpts_settings_has_a_value_of_ours():
    config = asdict(TrainingConfig())
    assert {ours for ours in OPTIONS.values() if ours not in config} == set()
    # what it is told to train with is all that we can tell a training but for the weights' names,
    # the machine's settings and what only ours has
    left = {"init_from", "optimizer", "patience", "log_interval", "seed"}
    left |= {"device", "dtype", "compile", "parallel"}
    assert set(config) - set(OPTIONS.values()) == left


@pytest.mark.skipif(not NANOGPT, reason="NANOGPT names a checkout of it")
def test_nanogpt_trains_from_scratch_and_goes_on_from_our_weights(tmp_path, tiny_gpt):
    documents = {"train": [("t", "a steady service answers. " * 80)], "val": [("v", "slow. " * 30)]}
    write_token_bins(tmp_path / "bins", "toy", Tokenizer.plain_bytes(), documents)
    bins = TokenBins.open(tmp_path / "bins")
    config = TrainingConfig(
        **dict(n_layer=2, n_head=2, n_embd=32, block_size=32, batch_size=4, dropout=0.0),
        **dict(max_steps=20, eval_interval=10, warmup_steps=2, learning_rate=3e-3),
    )
    learned = train_nanogpt(Path(NANOGPT), bins, config, tmp_path / "scratch")
    assert learned.val_loss < 5.4 < math.log(257)
    still = replace(config, learning_rate=1e-9, min_learning_rate=1e-10)
    start = GPT(replace(tiny_gpt.config, block_size=32)).init_weights(1)
    same = train_nanogpt(Path(NANOGPT), bins, still, tmp_path / "start", start)
    # its GELU is exact, ours approximated
    assert same.val_loss == pytest.approx(mean_loss(start.eval(), bins.tokens("val")), abs=1e-4)


@pytest.mark.parametrize("name", ["pretraining", "recipe"])
def test_a_benchmark_without_its_data_says_what_it_needs(name, tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"],
        **dict(cwd=tmp_path, capture_output=True, text=True, timeout=100),
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert answer.returncode == 0, answer.stderr
    assert re.search(rf"^{name}: skipped, .*--bins", answer.stdout)
