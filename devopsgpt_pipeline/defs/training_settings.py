"""The launchpad's training settings, derived from the one dataclass that declares them."""

import dataclasses
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from devopsgpt_model.config import TrainingConfig, field_docs, training_config


def training_run_config(defaults: TrainingConfig, dataset: str) -> type[dg.Config]:
    """A Dagster config class with every setting's type, unit and default, and the dataset to train
    on."""
    docs = field_docs(TrainingConfig)
    fields: dict[str, Any] = {
        field.name: (
            field.type,
            Field(default=getattr(defaults, field.name), description=docs[field.name]),
        )
        for field in dataclasses.fields(TrainingConfig)
    }
    fields["dataset"] = (
        str,
        Field(default=dataset, description="Token bins to train on: books or shakespeare."),
    )
    return create_model(
        "TrainingSettings", __base__=dg.Config, __doc__=TrainingConfig.__doc__, **fields
    )


def settings_of(config: dg.Config) -> tuple[TrainingConfig, str]:
    """What was set in the launchpad: training settings and dataset. raises: ValueError for a value
    out of range"""
    values = config.model_dump()
    dataset = values.pop("dataset")
    return training_config(values), dataset
