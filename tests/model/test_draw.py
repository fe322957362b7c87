import random

import pytest
import torch

from devopsgpt_model.draw import BLOCK, NUCLEUS, Draw, sample_tokens

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def draws(count=2000, **settings):
    draw = Draw(random.Random(0), **{"temperature": 1.0} | settings)
    return [sample_tokens(LOGITS[None], [draw])[0] for _ in range(count)]


def test_draws_follow_the_probabilities():
    drawn = draws()
    for token, probability in enumerate([0.5, 0.3, 0.15, 0.05]):
        assert drawn.count(token) / 2000 == pytest.approx(probability, abs=0.04)


def test_temperature_zero_takes_the_most_likely():
    assert set(draws(20, temperature=0.0)) == {0}


def test_top_k_keeps_the_k_most_likely():
    assert set(draws(top_k=2)) == {0, 1}


def test_top_p_keeps_the_tokens_that_reach_it():
    assert set(draws(top_p=0.5)) == {0}
    assert set(draws(top_p=0.79)) == {0, 1}
    assert set(draws(top_p=0.81)) == {0, 1, 2}


def test_top_p_may_need_more_tokens_than_are_looked_at_first():
    flat, draw = torch.zeros(1, 4 * NUCLEUS), Draw(random.Random(0), 1.0, 0, 0.75)
    drawn = [sample_tokens(flat, [draw])[0] for _ in range(4 * NUCLEUS)]
    assert NUCLEUS < len(set(drawn)) <= 3 * NUCLEUS


def test_extreme_settings_still_draw_the_most_likely_token():
    assert set(draws(20, top_p=5e-324)) == {0}
    assert set(draws(20, temperature=1e-30)) == {0}


def test_a_wide_vocabulary_is_drawn_from_as_its_probabilities_say():
    """More than a block, the last one not full: every token's count against its expected one."""
    logits = torch.randn(1, 2 * BLOCK + 50, generator=torch.Generator().manual_seed(1)) * 1.5
    logits[0, ::3] = -torch.inf
    draws = [Draw(random.Random(seed), 1.0) for seed in range(40_000)]
    counts = torch.bincount(torch.tensor(sample_tokens(logits.expand(40_000, -1), draws)), minlength=logits.size(1))
    expected = torch.softmax(logits[0], 0) * 40_000
    possible = expected > 0
    assert not counts[~possible].any()
    chi_squared = ((counts - expected)[possible] ** 2 / expected[possible]).sum() / (possible.sum() - 1)
    assert 0.7 < chi_squared < 1.3


class Always(random.Random):
    """The same number every time."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def random(self):
        return self.number


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("width", [4, BLOCK, 2 * BLOCK, 2 * BLOCK + 1])
def test_the_ends_of_the_random_numbers_draw_no_impossible_token(number, width):
    logits = torch.full((1, width), -torch.inf)
    logits[0, [1, width // 2, width - 2]] = torch.tensor([0.3, 0.1, 0.7])
    for settings in ({}, {"top_k": 3}, {"top_k": 2}, {"top_p": 0.9}):
        assert logits[0, sample_tokens(logits, [Draw(Always(number), 1.0, **settings)])[0]] > -torch.inf


def test_a_row_is_drawn_alike_alone_and_among_others():
    logits = torch.randn(24, 3000, generator=torch.Generator().manual_seed(2)) * torch.logspace(-1, 1, 24)[:, None]
    ways = [(0.0,), (1.0,), (0.5,), (1.0, 5), (1.0, 5, 0.5), (0.7, 40, 0.9), (1.0, 0, 0.5), (0.8, 0, 0.99)]

    def draws():
        return [Draw(random.Random(row), *ways[row % len(ways)]) for row in range(len(logits))]

    alone = [sample_tokens(logits[row : row + 1], [draw])[0] for row, draw in enumerate(draws())]
    assert sample_tokens(logits, draws()) == alone
