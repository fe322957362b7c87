"""The grid of a sweep: every combination of the settings that it varies, and how each one ended."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devopsgpt_model.config import TrainingConfig, changed


@dataclass(frozen=True)
class Trial:
    """One point of the grid. name: the settings that the grid varies, as `learning_rate=0.0001
    max_steps=100`"""

    name: str
    config: TrainingConfig


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. failure: why it did, empty for one that has a val_loss"""

    trial: Trial
    val_loss: float
    failure: str = ""

    def row(self) -> dict[str, Any]:
        """A line of the table that ends a sweep."""
        values = dict(each.split("=", 1) for each in self.trial.name.split())
        return {**values, "val_loss": f"{self.val_loss:.4f}" if not self.failure else self.failure}


def grid(preset_name: str, changes: Sequence[str], axes: Sequence[str]) -> list[Trial]:
    """Every combination of the axes, each on top of the preset and its changes. axes: as
    `max_steps=100,200`

    raises: ValueError for a setting that is unknown, out of range, or named twice, and for two
    equal points
    """
    names = [axis.partition("=")[0] for axis in axes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--sweep {twice[0]} is given twice; put all its values into one")
    choices = [
        [f"{name}={value}" for value in axis.partition("=")[2].split(",")]
        for name, axis in zip(names, axes, strict=True)
    ]
    trials = [
        Trial(" ".join(point), changed(preset_name, [*changes, *point]))
        for point in itertools.product(*choices)
    ]
    for one, other in itertools.combinations(trials, 2):
        if one.config == other.config:  # their trainings would share one folder and one run
            raise ValueError(
                f"--sweep has the same settings twice: {one.name}, and {other.name}; leave one out"
            )
    return trials
