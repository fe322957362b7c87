"""The launchpad's settings of a training, in a real job of Dagster's."""

import dataclasses

import dagster as dg
import pytest

from devopsgpt_model.config import CHOICES, TrainingConfig
from devopsgpt_pipeline.defs.training import settings_of, training_run_config

DEFAULTS = TrainingConfig(optimizer="muon")


@pytest.fixture
def job():
    """It returns the settings that a training would take."""
    settings_class = training_run_config(DEFAULTS, "books")

    @dg.op
    def settings(config: settings_class) -> dict:
        training, dataset = settings_of(config)
        return {**dataclasses.asdict(training), "dataset": dataset}

    @dg.job
    def training():
        settings()

    return training


def launched(job, **values):
    config = {"ops": {"settings": {"config": values}}}
    return job.execute_in_process(config).output_for_node("settings")


def test_the_launchpad_offers_the_values_of_a_choice_and_takes_each(job):
    fields = job.run_config_schema.config_type.fields["ops"].config_type.fields
    config = fields["settings"].config_type.fields["config"].config_type.fields
    for name, values in CHOICES.items():
        kinds = [config[name].config_type, getattr(config[name].config_type, "inner_type", None)]
        offered = next(kind for kind in kinds if kind.kind.name == "ENUM")
        assert tuple(value.config_value for value in offered.enum_values) == values
        assert config[name].default_value == getattr(DEFAULTS, name)
        for value in values:
            assert launched(job, **{name: value})[name] == value


def test_unset_values_are_the_defaults_as_plain_values(job):
    taken = launched(job)
    assert taken == {**dataclasses.asdict(DEFAULTS), "dataset": "books"}
    assert {type(taken[name]) for name in CHOICES} == {str}


def test_every_setting_as_the_command_line_sends_it_is_taken(job):
    sent = dataclasses.asdict(TrainingConfig(optimizer="adamw", compile="off", max_steps=7))
    assert launched(job, **sent, dataset="notes") == {**sent, "dataset": "notes"}


def test_another_value_is_refused_before_anything_runs(job):
    with pytest.raises(dg.DagsterInvalidConfigError, match="not in enum type optimizer got sgd"):
        launched(job, optimizer="sgd")
