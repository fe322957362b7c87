import dataclasses

import pytest

from devopsgpt_model.config import PRESETS, TrainingConfig, field_docs, preset, training_config


def test_every_setting_has_a_docstring():
    docs = field_docs(TrainingConfig)
    assert set(docs) == {field.name for field in dataclasses.fields(TrainingConfig)}
    assert all(docs.values())


FINETUNING = ("finetune_sre", "finetune_sre_small", "finetune_shakespeare")


def test_the_seeds_presets_are_there_and_muons_beside_those_that_fine_tune():
    beside = {f"{name}_muon" for name in FINETUNING}
    assert {*FINETUNING, *beside, "train_sre_cpu", "sample"} == set(PRESETS)


@pytest.mark.parametrize("name", FINETUNING)
def test_a_preset_with_muon_differs_by_optimizer_and_rate_alone(name):
    seeds, muons = (dataclasses.asdict(preset(each)) for each in (name, f"{name}_muon"))
    rate = ("learning_rate", "min_learning_rate", "warmup_steps")
    assert {key for key in seeds if seeds[key] != muons[key]} == {"optimizer", *rate}
    assert muons["optimizer"] == "muon"
    expected = (3 * seeds["learning_rate"], 0.0, seeds["max_steps"] // 10)
    assert tuple(muons[key] for key in rate) == expected


SEEDS = {  # as the seed repository's configuration files have them
    "finetune_sre": {
        "init_from": "gpt2-large",
        "max_steps": 500,
        "learning_rate": 2e-5,
        "eval_interval": 5,
    },
    "finetune_sre_small": {"init_from": "gpt2", "max_steps": 100, "learning_rate": 3e-5},
    "finetune_shakespeare": {"init_from": "gpt2-xl", "max_steps": 20, "learning_rate": 3e-5},
    "train_sre_cpu": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 256, "batch_size": 12}
    | {"learning_rate": 1e-3, "min_learning_rate": 1e-4, "beta2": 0.99, "init_from": "scratch"},
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_preset_has_the_seeds_settings(name):
    settings = dataclasses.asdict(preset(name))
    expected = SEEDS[name] | {"optimizer": "adamw"}
    if name.startswith("finetune"):  # 32,768 tokens a step, at a constant rate
        expected = expected | {"batch_size": 1, "grad_accum_steps": 32, "block_size": 1024}
        expected = expected | {"min_learning_rate": settings["learning_rate"], "warmup_steps": 0}
    assert {key: settings[key] for key in expected} == expected


def test_settings_without_an_optimizer_mean_what_they_meant_before_there_was_a_choice():
    assert training_config({"max_steps": 7}).optimizer == "adamw"
    assert preset("sample").optimizer == "muon"


def test_an_unknown_preset_is_told_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown preset 'finetune'; the presets are sample, finetune_sre"
    ):
        preset("finetune")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"min_learning_rate": 1.0}, r"at most learning_rate \(0.003\), got 1.0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, got 'sgd'"),
        ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16, got 'float16'"),
        ({"n_embd": 130}, "n_embd must be a multiple of n_head, got 130 and 4"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"init_from": ""}, "init_from must name the initial weights"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        training_config(settings)
