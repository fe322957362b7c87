import copy
import dataclasses
import functools
import os

import pytest
import torch

from devopsgpt_model.config import GPT2_SIZES, PRESETS, GPTConfig, TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.training.compile_policy import (
    CACHE_VARIABLE,
    TRITON_CACHE_VARIABLE,
    compile_pays,
    keep_compiled_code,
)
from devopsgpt_model.training.step import LossOf

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BFLOAT16 = torch.bfloat16


@pytest.fixture
def gpt2():
    with torch.device("meta"):
        return GPT(GPT2_SIZES["gpt2"])


def test_a_long_run_is_compiled_and_a_short_one_is_not(gpt2, tiny_gpt):
    config = PRESETS["finetune_sre_small"]
    assert compile_pays(config, gpt2, CPU, BFLOAT16)
    assert not compile_pays(dataclasses.replace(config, max_steps=1), gpt2, CPU, BFLOAT16)
    assert not compile_pays(config, gpt2, CUDA, BFLOAT16)  # 8 s of steps there
    assert compile_pays(dataclasses.replace(config, max_steps=1000), gpt2, CUDA, BFLOAT16)
    assert not compile_pays(PRESETS["sample"], tiny_gpt, CPU, BFLOAT16)
    assert not compile_pays(config, gpt2, CPU, None)  # in float32 it saves nothing
    assert compile_pays(dataclasses.replace(config, max_steps=1000), gpt2, CUDA, None)


def test_the_setting_decides_where_it_says_on_or_off(gpt2, tiny_gpt):
    assert compile_pays(
        dataclasses.replace(PRESETS["sample"], compile="on"), tiny_gpt, CPU, BFLOAT16
    )
    assert not compile_pays(
        dataclasses.replace(PRESETS["finetune_sre_small"], compile="off"), gpt2, CPU, BFLOAT16
    )
    with pytest.raises(ValueError, match="compile must be one of auto, on, off, got 'yes'"):
        TrainingConfig(compile="yes")


def test_compiled_code_is_kept_where_the_environment_says_else_in_the_folder(tmp_path, monkeypatch):
    named, triton = {CACHE_VARIABLE: "elsewhere"}, {TRITON_CACHE_VARIABLE: "a third place"}
    both = {**named, **triton}
    for given, kept in (
        ({}, {CACHE_VARIABLE: str(tmp_path), TRITON_CACHE_VARIABLE: str(tmp_path / "triton")}),
        (named, {**named, TRITON_CACHE_VARIABLE: "elsewhere/triton"}),
        (both, both),
    ):
        monkeypatch.setattr(os, "environ", dict(given))
        keep_compiled_code(tmp_path)
        assert os.environ == kept


def test_compiled_code_in_use_does_not_age(tmp_path, monkeypatch):
    folder = tmp_path / "compiled"
    folder.mkdir()
    for named, young in ((str(tmp_path), False), (None, True)):
        monkeypatch.setattr(os, "environ", {CACHE_VARIABLE: named} if named else {})
        os.utime(folder, (0, 0))
        keep_compiled_code(folder)
        assert (folder.stat().st_mtime > 0) == young


@pytest.fixture
def counters():
    """What the compiler counts, from zero. Its import takes seconds, which other tests need not
    wait for."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    return counters


# torch's own, in tracing
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # the same
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", [pytest.param("inductor", marks=pytest.mark.slow), "aot_eager"])
def test_a_compiled_step_is_one_graph_of_all_blocks_and_has_the_same_gradients(
    tiny_gpt, autocast, backend, monkeypatch, counters
):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    idx = torch.randint(257, (2, 64), generator=torch.Generator().manual_seed(1))
    eager, compiled = tiny_gpt.eval(), copy.deepcopy(tiny_gpt)
    losses = []
    for loss_of in (LossOf(eager), LossOf(compiled, compiled=True)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses.append(loss_of(idx, idx.roll(-1, 1)))
        losses[-1].backward()
    assert counters["stats"]["unique_graphs"] == 1 < len(compiled.h)
    assert not counters["graph_break"]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-3 if autocast else 1e-5)
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= (
            2e-2 if autocast else 1e-4
        ) * theirs.grad.norm() + 1e-6


def test_nanogpts_step_has_no_fewer_breaks_than_none():
    import torch._dynamo

    from benchmarks._nanogpt import NanoGPT

    idx = torch.zeros(2, 64, dtype=torch.int64)
    explained = torch._dynamo.explain(
        NanoGPT(GPTConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=32))
    )(idx, idx)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_an_evaluation_of_a_compiled_model_compiles_nothing(tiny_gpt, counters):
    model, idx = tiny_gpt.eval(), torch.zeros(1, 32, dtype=torch.int64)
    expected = model(idx)[0]
    LossOf(model, compiled=True)
    with torch.no_grad():
        assert torch.equal(model(idx)[0], expected)
    assert not counters["stats"]
