"""When things run with no hand on them."""

import os
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._utils.schedules import is_valid_cron_schedule

from devopsgpt_pipeline.defs.datasets import TOKEN_BINS

AC: Any = dg.AutomationCondition  # its type parameters do not combine under mypy


def on_change(inputs: Any) -> Any:
    """Fires when one of `inputs` changed its data version, or once for an asset that was never
    there.

    Not again for the same version, not again after a failure, not while a blocking check of an
    input fails, and not before the inputs that the same change will make anew are there.
    """
    return (
        (inputs | AC.missing().newly_true()).since_last_handled()
        & ~AC.any_deps_missing()
        & ~AC.any_deps_match(AC.will_be_requested())
        & ~AC.any_deps_in_progress()
        & ~AC.in_progress()
        & AC.all_deps_blocking_checks_passed()
    )


CHANGED = AC.any_deps_match(AC.data_version_changed())

# What judges a model reads the held-out chapters as well. A changed corpus is no reason to judge
# the old model again: a new one follows from it, and that is.
ON_CHANGE = on_change(CHANGED.ignore(dg.AssetSelection.assets(TOKEN_BINS))).with_label("on_change")

# The leaderboard shows what there is: it waits for no baseline that nobody measured, and for no
# check.
ON_MEASURED = (
    AC.any_deps_match(AC.newly_updated()).since_last_handled()
    & ~AC.any_deps_in_progress()
    & ~AC.in_progress()
).with_label("on_measured")


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """When to look at the books, and how often training may follow. Cron expressions, in UTC.

    raises: ValueError for what is no cron expression of five fields
    """

    observe: str = "17 4 * * *"
    """Each tick asks every book's site whether it changed."""

    retrain: str = ""
    """Between two ticks training runs at most once by itself; empty: whenever the corpus
    changed."""

    def __post_init__(self) -> None:
        for name, cron in (
            ("DEVOPSGPT_OBSERVE_CRON", self.observe),
            ("DEVOPSGPT_RETRAIN_CRON", self.retrain),
        ):
            if not is_valid_cron_schedule(cron) and (cron or name == "DEVOPSGPT_OBSERVE_CRON"):
                raise ValueError(
                    f"{name} must be a cron expression such as '0 3 * * 0' (Sundays "
                    f"at 3), got {cron!r}"
                )

    @classmethod
    def from_environment(cls) -> "Timetable":
        """DEVOPSGPT_OBSERVE_CRON and DEVOPSGPT_RETRAIN_CRON. raises: ValueError"""
        return cls(
            observe=os.environ.get("DEVOPSGPT_OBSERVE_CRON") or cls.observe,
            retrain=os.environ.get("DEVOPSGPT_RETRAIN_CRON") or cls.retrain,
        )

    @property
    def training_condition(self) -> Any:
        """For what is trained: any change, held back until the next tick of `retrain`; the first
        waits for none."""
        if not self.retrain:
            return on_change(CHANGED).with_label("on_change")
        due = AC.missing() | AC.cron_tick_passed(self.retrain).since_last_handled()
        return (on_change(CHANGED) & due).with_label("on_change_when_due")


DAILY = Timetable()

ON_CHANGE_SENSOR = dg.AutomationConditionSensorDefinition(
    "on_change",
    target=dg.AssetSelection.all(include_sources=True),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,  # the chain is seven steps, and each waits for a tick
)
