import math

import pytest
import torch

from devopsgpt_model.config import GPT2_SIZES, GPTConfig
from devopsgpt_model.gpt import GPT


def test_cached_decoding_gives_the_logits_of_the_full_pass(tiny_gpt):
    idx = torch.randint(257, (3, 40), generator=torch.Generator().manual_seed(0))
    cache, start = tiny_gpt.new_cache(3), torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        logits = tiny_gpt.extend(idx[:, :30], cache, start)
        for position in range(30, 40):
            start = torch.full((3,), position)
            logits = tiny_gpt.extend(idx[:, position : position + 1], cache, start)
        expected, _ = tiny_gpt(idx)
    torch.testing.assert_close(logits, expected[:, -1], atol=1e-5, rtol=1e-5)


def test_rows_of_different_lengths_decode_together_as_they_do_alone(tiny_gpt):
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(257, (1, length), generator=generator) for length in (5, 17)]
    cache = tiny_gpt.new_cache(2)
    with torch.no_grad():
        for row, prompt in enumerate(prompts):
            tiny_gpt.extend(prompt, cache.rows(row, row + 1), torch.zeros(1, dtype=torch.int64))
        token = torch.tensor([[3], [4]])
        together = tiny_gpt.extend(token, cache, torch.tensor([5, 17]))
        alone = [
            tiny_gpt(torch.cat([p, t[None]], 1))[0][0, -1]
            for p, t in zip(prompts, token, strict=True)
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_a_copied_row_continues_like_its_source(tiny_gpt):
    cache, prompt = tiny_gpt.new_cache(2), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        tiny_gpt.extend(prompt, cache.rows(0, 1), torch.tensor([0]))
        cache.copy_row(0, 1, 3)
        logits = tiny_gpt.extend(torch.tensor([[9], [9]]), cache, torch.tensor([3, 3]))
    torch.testing.assert_close(logits[0], logits[1])


def test_loss_of_uniform_logits_is_log_vocab_size(tiny_gpt):
    torch.nn.init.zeros_(tiny_gpt.wte.weight)
    idx = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))
    _, loss = tiny_gpt(idx, idx)
    assert loss.item() == pytest.approx(math.log(257), abs=1e-6)


def test_padding_of_the_vocabulary_never_reaches_the_logits(tiny_gpt):
    assert tiny_gpt.wte.weight.shape[0] == 320
    logits, _ = tiny_gpt(torch.tensor([[1, 2]]))
    assert logits.shape == (1, 2, 257)


def test_a_sequence_longer_than_the_context_is_refused(tiny_gpt):
    with pytest.raises(ValueError, match="at most 64 tokens"):
        tiny_gpt(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match="at most 64 tokens"):
        tiny_gpt.extend(
            torch.zeros(1, 4, dtype=torch.int64), tiny_gpt.new_cache(1), torch.tensor([61])
        )


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_sizes_have_the_published_parameter_counts(size, parameters):
    config = GPT2_SIZES[size]
    assert config.parameter_count == parameters
    with torch.device("meta"):
        padding = (config.padded_vocab_size - config.vocab_size) * config.n_embd
        assert sum(each.numel() for each in GPT(config).parameters()) - padding == parameters


def test_a_seed_decides_the_initial_weights():
    config = GPTConfig(vocab_size=100, block_size=8, n_layer=1, n_head=1, n_embd=8)
    one, same, other = (GPT(config).init_weights(seed).wte.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match="n_embd must be a multiple of n_head, got 10 and 3"):
        GPTConfig(vocab_size=10, block_size=4, n_layer=1, n_head=3, n_embd=10)


def test_attention_of_a_training_step_is_the_fused_kernel_with_dropout_too():
    config = GPTConfig(vocab_size=257, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.1)
    model, idx = GPT(config).init_weights(1).train(), torch.zeros(2, 32, dtype=torch.int64)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True
    ) as profiled:
        model.loss(idx, idx).backward()
    calls = {each.key: each.count for each in profiled.key_averages()}
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert calls.get(fused) == calls.get(f"{fused}_backward") == config.n_layer
