"""How a token is drawn: temperatures, seeds, penalties, alone and in a batch."""

import pytest
import torch

from devopsgpt_serving.engine.sampling import Sampler, Sampling, sample_each
from serving.conftest import until
from serving.engine.asking import Asked, alone


@pytest.mark.parametrize("temperature", [0, 1e-9, 2])
def test_extreme_temperatures_answer(engine, temperature):
    text, reason = Asked(engine, "hello", temperature=temperature, seed=1).end()
    assert reason == "length"
    if temperature < 1:
        assert text == alone("hello", temperature=0)


def test_the_smallest_top_p_is_greedy(engine):
    assert Asked(engine, "hello", top_p=5e-324).text == alone("hello", temperature=0)


def test_a_seed_is_drawn_where_none_is_given(engine):
    assert Asked(engine, "hello").text != Asked(engine, "hello").text


def test_every_way_of_drawing_is_the_same_in_a_batch_as_alone():
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    ways = [
        {"temperature": 0.0},
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.5},
        {"presence_penalty": 2.0},
    ]

    def samplers():
        return [
            Sampler(Sampling(max_tokens=9, seed=seed, **way), [1], 0)
            for seed, way in enumerate(ways)
        ]

    batch, lone = samplers(), samplers()
    together = [sample_each(logits.roll(step, 1), batch) for step in range(9)]
    alone = [
        [sample_each(logits.roll(step, 1)[i : i + 1], [one])[0] for i, one in enumerate(lone)]
        for step in range(9)
    ]
    assert together == alone
    assert all(one.drawn.total() == 9 for one in batch)


def test_penalties_take_what_they_say():
    penalties = dict(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5)
    sampler = Sampler(Sampling(max_tokens=9, **penalties), [1], 0)
    sampler.drawn[2] = 2
    # prompt and answer: 1 / 2; the answer also 1 + 2 * 0.5
    assert sampler.penalized(torch.ones(4)).tolist() == [1, 0.5, -1.5, 1]
    # a negative logit goes down, too: -1 * 2
    assert sampler.penalized(-torch.ones(4)).tolist() == [-1, -2, -4, -1]


def test_penalties_keep_a_greedy_answer_from_repeating(engine):
    plain = Asked(engine, "aaaa", temperature=0, max_tokens=40).sequence
    until(lambda: plain.ended)
    for penalty in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 5.0},
    ):
        sequence = Asked(engine, "aaaa", temperature=0, max_tokens=40, **penalty).sequence
        until(lambda s=sequence: s.ended)
        assert len(set(sequence.tokens)) > len(set(plain.tokens)), penalty
