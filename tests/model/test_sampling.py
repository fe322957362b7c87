import math

import pytest
import torch

from devopsgpt_model.sampling import BLOCK, SamplingParams, _locate, random_stream, sample_tokens

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def draws(count=2000, **settings):
    draw = SamplingParams(random_stream(0), **{"temperature": 1.0} | settings)
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


def nucleus(logits, top_p):
    """Probability of each token, by sorting. logits: (V,)"""
    ordered, ids = torch.softmax(logits, 0).sort(descending=True)
    ordered[ordered.cumsum(0) - ordered >= top_p] = 0
    return torch.zeros_like(ordered).scatter(0, ids, ordered / ordered.sum())


@pytest.mark.parametrize("top_k", [0, 300])
@pytest.mark.parametrize("top_p", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_top_p_draws_what_sorting_would_as_often(top_p, top_k):
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(3)) * 2
    kept = logits.where(
        logits >= logits.sort(descending=True).values[(top_k or 1000) - 1], -torch.inf
    )
    tokens = torch.tensor(
        sample_tokens(
            logits.expand(20_000, -1),
            [SamplingParams(random_stream(1), 1.0, top_k, top_p)] * 20_000,
        )
    )
    check(torch.bincount(tokens, minlength=1000), nucleus(kept, top_p))


def test_tokens_as_likely_as_the_one_that_crosses_top_p_stay():
    assert set(
        sample_tokens(torch.zeros(200, 4), [SamplingParams(random_stream(1), 1.0, 0, 0.5)] * 200)
    ) == {
        0,
        1,
        2,
        3,
    }


def test_extreme_settings_still_draw_the_most_likely_token():
    assert set(draws(20, top_p=5e-324)) == {0}
    assert set(draws(20, temperature=1e-30)) == {0}


def check(counts, probabilities):
    """Chi-squared for each degree of freedom, tokens that are expected less than five times left
    out."""
    expected = probabilities * counts.sum()
    assert not counts[probabilities == 0].any()
    often = expected >= 5
    if often.sum() > 1:
        chi_squared = ((counts - expected)[often] ** 2 / expected[often]).sum()
        freedom = int(often.sum()) - 1
        assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


def test_a_wide_vocabulary_is_drawn_from_as_its_probabilities_say():
    """More than a block, the last one not full."""
    logits = torch.randn(1, 2 * BLOCK + 50, generator=torch.Generator().manual_seed(1)) * 1.5
    logits[0, ::3] = -torch.inf
    tokens = torch.tensor(
        sample_tokens(logits.expand(40_000, -1), [SamplingParams(random_stream(1), 1.0)] * 40_000)
    )
    check(torch.bincount(tokens, minlength=logits.size(1)), torch.softmax(logits[0], 0))


@pytest.mark.parametrize("point", [-1e-17, 0.0, 0.5, 1 - 2**-53, 1.0])
def test_no_point_lies_in_a_weight_of_zero(point):
    weights = torch.tensor([[0, 0.3, 0.1, 0, 0.6, 0]])
    at, _ = _locate(weights, torch.tensor([[point]], dtype=torch.float64))
    assert weights[0, at] > 0


@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.9}, {"top_k": 40}, {"top_k": 300, "top_p": 0.9}]
)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("width", [257, 300])
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary(width, wrong, settings):
    logits = torch.zeros(2, width)
    logits[1, 7] = wrong
    tokens = sample_tokens(
        logits, [SamplingParams(random_stream(seed), 1.0, **settings) for seed in range(2)]
    )
    assert all(0 <= token < width for token in tokens)


def test_a_seed_is_any_number_and_neighbours_begin_apart():
    firsts = [random_stream(seed).random() for seed in (-1, 0, 1, 2, 10**30)]
    assert len(set(firsts)) == 5
    assert random_stream(7).random() == random_stream(7).random()
    begun = torch.tensor([random_stream(seed).random() for seed in range(20_000)])
    check(torch.histc(begun, 200, 0, 1), torch.full((200,), 1 / 200))


def test_a_draw_too_many_is_told():
    with pytest.raises(ValueError, match="2 rows, 3 params"):
        sample_tokens(torch.zeros(2, 5), [SamplingParams(random_stream(1))] * 3)


def test_a_row_is_drawn_alike_alone_and_among_others():
    logits = (
        torch.randn(24, 50257, generator=torch.Generator().manual_seed(2))
        * torch.logspace(-1, 1, 24)[:, None]
    )
    ways = [
        (0.0,),
        (1.0,),
        (0.5,),
        (1.0, 5),
        (1.0, 5, 0.5),
        (0.7, 40, 0.9),
        (1.0, 0, 0.5),
        (0.8, 0, 0.99),
    ]

    def draws():
        return [
            SamplingParams(random_stream(row), *ways[row % len(ways)]) for row in range(len(logits))
        ]

    alone = [sample_tokens(logits[row : row + 1], [draw])[0] for row, draw in enumerate(draws())]
    assert sample_tokens(logits, draws()) == alone
