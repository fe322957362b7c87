import numpy as np
import pytest
import torch

from devopsgpt_model.batches import ShuffledWindows, full_pass
from devopsgpt_model.loss import IGNORED


def test_an_epoch_visits_every_window_once():
    tokens = np.arange(1000, dtype=np.uint16)
    data = ShuffledWindows(tokens, block_size=10, batch_size=7, seed=1)
    batches = -(-data.windows_per_epoch // 7)
    starts = [int(row[0]) for number in range(batches) for row in data.batch(number)[0]]
    first_epoch = starts[: data.windows_per_epoch]
    assert len(set(first_epoch)) == data.windows_per_epoch == 98
    assert {start % 10 for start in first_epoch} == {first_epoch[0] % 10}


def test_a_batch_follows_from_seed_and_number_alone():
    tokens = np.arange(1000, dtype=np.uint16)
    one = ShuffledWindows(tokens, 10, 4, seed=1)
    one.batch(0)
    one.batch(60)
    assert torch.equal(one.batch(30)[0], ShuffledWindows(tokens, 10, 4, seed=1).batch(30)[0])
    assert not torch.equal(one.batch(30)[0], ShuffledWindows(tokens, 10, 4, seed=2).batch(30)[0])


def test_targets_are_the_next_tokens():
    idx, targets = ShuffledWindows(np.arange(100, dtype=np.uint16), 10, 2, seed=1).batch(0)
    assert torch.equal(idx + 1, targets)


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="more than block_size tokens, got 10"):
        ShuffledWindows(np.arange(10, dtype=np.uint16), 10, 1, seed=1)


@pytest.mark.parametrize("length", [2, 10, 11, 12, 55, 101])
def test_a_full_pass_predicts_every_token_but_the_first_once(length):
    targets = torch.cat(
        [t.flatten() for _, t in full_pass(np.arange(length, dtype=np.uint16), 10, 3, IGNORED)]
    )
    assert targets[targets != IGNORED].tolist() == list(range(1, length))


def test_every_third_window_is_every_third_of_the_pass():
    tokens = np.arange(95, dtype=np.uint16)
    whole = torch.cat([targets for _, targets in full_pass(tokens, 10, 4, IGNORED)])
    thirds = [
        torch.cat(each) for each in zip(*full_pass(tokens, 10, 2, IGNORED, every=3), strict=True)
    ]
    assert torch.equal(thirds[1], whole[::3])
    assert torch.equal(
        thirds[0][:, 1:][thirds[1][:, 1:] != IGNORED],
        thirds[1][:, :-1][thirds[1][:, 1:] != IGNORED],
    )
