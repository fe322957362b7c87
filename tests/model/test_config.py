import dataclasses

import pytest

from devopsgpt_model.config import PRESETS, TrainingConfig, field_docs, preset, training_config


def test_every_setting_has_a_docstring():
    docs = field_docs(TrainingConfig)
    assert set(docs) == {field.name for field in dataclasses.fields(TrainingConfig)}
    assert all(docs.values())


def test_the_seeds_presets_are_there():
    assert {"finetune_sre", "finetune_sre_small", "finetune_shakespeare", "train_sre_cpu", "sample"} == set(PRESETS)
    small = preset("finetune_sre_small")
    assert (small.init_from, small.max_steps, small.learning_rate, small.min_learning_rate) == (
        "gpt2",
        100,
        3e-5,
        3e-5,
    )


def test_an_unknown_preset_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown preset 'finetune'; the presets are sample, finetune_sre"):
        preset("finetune")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"min_learning_rate": 1.0}, r"at most learning_rate \(0.003\), got 1.0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16, got 'float16'"),
        ({"n_embd": 130}, "n_embd must be a multiple of n_head, got 130 and 4"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, got -0.1"),
        ({"init_from": ""}, "init_from must name the initial weights"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        training_config(settings)
