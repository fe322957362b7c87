import math

import numpy as np
import pytest
import torch

from devopsgpt_model.evaluate import evaluate, evaluate_split, mean_loss, random_batch_loss
from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint16)


def test_the_full_pass_is_the_mean_over_windows(tiny_gpt, tokens):
    windows = [tokens[i : i + 65] for i in range(0, 4999, 64)]
    total = sum(mean_loss(tiny_gpt, window) * (len(window) - 1) for window in windows)
    assert mean_loss(tiny_gpt, tokens) == pytest.approx(total / 4999, abs=1e-6)


def test_loss_of_a_uniform_model_is_log_vocab_size_and_its_bits_per_byte_follow(tiny_gpt, tokens):
    torch.nn.init.zeros_(tiny_gpt.wte.weight)
    result = evaluate(tiny_gpt, Tokenizer.plain_bytes(), tokens)
    assert result.loss == pytest.approx(math.log(257), abs=1e-6)
    assert result.perplexity == pytest.approx(257, abs=1e-2)
    assert result.bits_per_byte == pytest.approx(math.log2(257), abs=1e-6)  # a token is a byte
    assert (result.tokens, result.text_bytes) == (4999, 4999)


def test_an_evaluation_changes_nothing(tiny_gpt, tokens):
    tiny_gpt.train()
    first = mean_loss(tiny_gpt, tokens)
    assert tiny_gpt.training
    assert mean_loss(tiny_gpt, tokens) == first


def test_bins_in_another_vocabulary_are_encoded_anew(tiny_gpt, bpe_tokenizer, tmp_path):
    documents = {
        "train": [("t", "the service")],
        "val": [("a", "the service waits"), ("b", "answers — naïve")],
    }
    write_token_bins(tmp_path / "bpe", "toy", bpe_tokenizer, documents)
    write_token_bins(tmp_path / "bytes", "toy", Tokenizer.plain_bytes(), documents)
    other = evaluate_split(tiny_gpt, Tokenizer.plain_bytes(), TokenBins.open(tmp_path / "bpe"))
    own = evaluate(
        tiny_gpt, Tokenizer.plain_bytes(), TokenBins.open(tmp_path / "bytes").tokens("val")
    )
    assert (other.loss, other.tokens, other.bits_per_byte) == (
        own.loss,
        own.tokens,
        own.bits_per_byte,
    )


def test_one_token_is_too_few(tiny_gpt):
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        mean_loss(tiny_gpt, np.array([1], dtype=np.uint16))


def test_random_batches_estimate_the_full_pass_and_repeat_with_their_seed(tiny_gpt, tokens):
    estimate = random_batch_loss(tiny_gpt, tokens, batches=60)
    assert estimate == pytest.approx(mean_loss(tiny_gpt, tokens), abs=0.01)
    assert random_batch_loss(tiny_gpt, tokens, batches=60) == estimate
    assert random_batch_loss(tiny_gpt, tokens, batches=60, seed=2) != estimate


def test_random_batches_need_more_than_one_window(tiny_gpt, tokens):
    with pytest.raises(ValueError, match=r"more than block_size \(64\) tokens, got 64"):
        random_batch_loss(tiny_gpt, tokens[:64])
    assert random_batch_loss(tiny_gpt, tokens[:65], batches=1) > 0
