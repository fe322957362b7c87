import dataclasses
import os

import pytest
import torch
import torch._dynamo

from devopsgpt_model.compile_policy import CACHE_VARIABLE, compile_pays, keep_compiled_code
from devopsgpt_model.config import GPT2_SIZES, PRESETS, TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.step import LossOf

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpt2():
    with torch.device("meta"):
        return GPT(GPT2_SIZES["gpt2"])


def test_a_long_run_is_compiled_and_a_short_one_is_not(gpt2, tiny_gpt):
    config = PRESETS["finetune_sre_small"]
    assert compile_pays(config, gpt2, CPU)
    assert not compile_pays(dataclasses.replace(config, max_steps=1), gpt2, CPU)
    assert not compile_pays(config, gpt2, CUDA)  # 12 s of steps there
    assert not compile_pays(PRESETS["sample"], tiny_gpt, CPU)


def test_the_setting_decides_where_it_says_on_or_off(gpt2, tiny_gpt):
    assert compile_pays(dataclasses.replace(PRESETS["sample"], compile="on"), tiny_gpt, CPU)
    assert not compile_pays(dataclasses.replace(PRESETS["finetune_sre_small"], compile="off"), gpt2, CPU)
    with pytest.raises(ValueError, match="compile must be one of auto, on, off, got 'yes'"):
        TrainingConfig(compile="yes")


def test_compiled_code_is_kept_where_the_environment_says_else_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "elsewhere")
    keep_compiled_code(tmp_path)
    assert os.environ[CACHE_VARIABLE] == "elsewhere"
    monkeypatch.delenv(CACHE_VARIABLE)
    keep_compiled_code(tmp_path)
    assert os.environ[CACHE_VARIABLE] == str(tmp_path)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_step_compiles_to_one_graph(tiny_gpt, autocast):
    idx = torch.zeros(2, 64, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        explained = torch._dynamo.explain(LossOf(tiny_gpt.train()))(idx, idx)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
