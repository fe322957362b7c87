import pytest
import torch

from devopsgpt_model.generate import generate_text, stream_ids
from devopsgpt_model.tokenizer import Tokenizer


def test_greedy_generation_is_the_argmax_of_the_full_pass(tiny_gpt):
    prompt = [1, 2, 3]
    generated = list(stream_ids(tiny_gpt, prompt, 10, eot_id=256, temperature=0.0))
    ids = list(prompt)
    with torch.no_grad():
        for token in generated:
            assert int(tiny_gpt(torch.tensor([ids]))[0][0, -1].argmax()) == token
            ids.append(token)


def test_generation_stops_at_end_of_text(tiny_gpt):
    first = next(stream_ids(tiny_gpt, [1], 1, eot_id=256, temperature=0.0))
    assert list(stream_ids(tiny_gpt, [1], 10, eot_id=first, temperature=0.0)) == []


def test_generation_ends_where_the_context_does(tiny_gpt):
    assert len(list(stream_ids(tiny_gpt, [1] * 60, 100, eot_id=-1, temperature=0.0))) == 4


def test_a_seed_decides_the_text(tiny_gpt):
    texts = [
        generate_text(tiny_gpt, Tokenizer.plain_bytes(), "on call", 20, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .* got -1.0"),
        ({"top_p": -0.1}, "top_p must be 0"),
        ({"top_k": -1}, "top_k must be 0"),
    ],
)
def test_settings_out_of_range_are_refused(tiny_gpt, settings, message):
    with pytest.raises(ValueError, match=message):
        list(stream_ids(tiny_gpt, [1], 1, eot_id=256, **settings))


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "at least one token"), ([1] * 64, "at most 63 tokens, got 64")]
)
def test_prompts_that_do_not_fit_are_refused(tiny_gpt, prompt, message):
    with pytest.raises(ValueError, match=message):
        list(stream_ids(tiny_gpt, prompt, 1, eot_id=256))
