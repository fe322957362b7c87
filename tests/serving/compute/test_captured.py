"""Captured decode steps: what a graph computes, checked without one; tests/gpu has the graphs."""

import copy
import sys

import pytest
import torch
from model.kernels.interpreting import interpret, needs_triton

from devopsgpt_serving.compute.captured import CapturedRunner
from devopsgpt_serving.compute.runner import EagerRunner
from serving.conftest import BLOCK_SIZE, make_model


class Uncaptured(CapturedRunner):
    """Computes what a graph would replay."""

    def capture(self):
        return self.step


def check(captured, eager, tolerance):
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
    for row, prompt in enumerate(prompts):
        for runner in (captured, eager):
            runner.prefill(row, prompt, 0, every=False)
    starts = [len(prompt) for prompt in prompts]
    for step in range(12):  # past a power of two in length
        ids = [step, 20 + step, 40 + step]
        got, expected = captured.decode(ids, starts), eager.decode(ids, starts)
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)
        starts = [start + 1 for start in starts]
    keys, expected = captured.cache.keys[0].float(), eager.cache.keys[0].float()
    torch.testing.assert_close(
        keys[3:, :, : BLOCK_SIZE - 1], expected[3:, :, : BLOCK_SIZE - 1], atol=0, rtol=0
    )


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_padded_steps_compute_what_eager_steps_do(rows):
    model = make_model(1)
    check(Uncaptured(copy.deepcopy(model), rows, "float32"), EagerRunner(model, rows), 1e-5)


@pytest.mark.parametrize("kind", [Uncaptured, EagerRunner])
@pytest.mark.parametrize("asked", [[2], [1, 2], [0, 2], [0, 1, 2]])
def test_rows_that_are_asked_for_alone_get_the_same_numbers(kind, asked):
    runner, prompts = kind(make_model(1), 4, "float32"), [[1, 2, 3], [4, 5, 6, 7, 8, 9], [10]]
    for row, prompt in enumerate(prompts):
        runner.prefill(row, prompt, 0, every=False)
    starts = [len(prompt) for prompt in prompts]
    whole = runner.decode([11, 12, 13], starts).clone()
    torch.testing.assert_close(
        runner.decode([11, 12, 13], starts, asked), whole[asked], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("known", [1, 5, 15, 16, 17, 40, 41])
def test_a_prompt_gives_the_same_numbers_however_much_of_it_is_known(monkeypatch, known):
    monkeypatch.setattr("devopsgpt_serving.compute.captured.PIECE", 16)
    prompt = list(range(3, 45))
    model = make_model(2, n_embd=64)
    runner = Uncaptured(copy.deepcopy(model), 3, "float32")
    every = runner.prefill(1, prompt, 0, every=True)
    torch.testing.assert_close(
        every, EagerRunner(model, 1).prefill(0, prompt, 0, every=True), atol=1e-5, rtol=0
    )
    whole = runner.prefill(0, prompt, 0, every=False)
    runner.copy_prefix(0, 2, known)
    assert torch.equal(runner.prefill(2, prompt[known:], known, every=False), whole)
    for each in (*runner.cache.keys, *runner.cache.values):
        assert torch.equal(each[2], each[0])
        assert not each[0, :, len(prompt) :].any()  # what fills a piece up is written nowhere else


def test_a_prompt_may_fill_the_context():
    prompt = [1 + place % 200 for place in range(BLOCK_SIZE)]
    model = make_model(3)
    runner = Uncaptured(copy.deepcopy(model), 2, "float32")
    runner.prefill(1, prompt[:100], 0, every=False)
    got, expected = (
        runner.prefill(1, prompt[100:], 100, every=False),
        EagerRunner(model, 1).prefill(0, prompt, 0, False),
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


# The runner with the kernel that a GPU would have, in Triton's interpreter.
WITH_KERNEL = """
import copy, torch
from devopsgpt_model.kernels.decoding import attend
from devopsgpt_serving.compute.captured import agrees
from devopsgpt_serving.compute.runner import EagerRunner
from serving.compute.test_captured import Uncaptured, check
from serving.conftest import make_model

model = make_model(1)
for rows in (3, 5):
    runner = Uncaptured(copy.deepcopy(model), rows, "float32")
    assert runner.attend is None
    runner.attend = attend
    check(runner, EagerRunner(copy.deepcopy(model), rows), 1e-5)
shape = 3, model.config.n_head, model.config.block_size, model.config.head_dim
agrees(attend, shape, model.wte.weight)
try:
    agrees(lambda *given, starts: attend(*given, starts) + 1, shape, model.wte.weight)
except RuntimeError as problem:
    print(problem)
"""


@needs_triton
def test_steps_with_the_kernel_compute_what_eager_steps_do():
    """And the comparison before its first use tells a kernel that computes something else."""
    assert "off torch's on this GPU" in interpret(WITH_KERNEL, paths=sys.path)
