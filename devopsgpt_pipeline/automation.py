"""When things run with no hand on them."""

import os
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._utils.schedules import is_valid_cron_schedule

AC: Any = dg.AutomationCondition  # its type parameters do not combine under mypy

# Fires when an input's data version changed, or once for an asset that was never there; not again for the same
# version, not again after a failure, and not while a blocking check of an input fails.
ON_CHANGE = (
    (AC.any_deps_match(AC.data_version_changed()) | AC.missing().newly_true()).since_last_handled()
    & ~AC.any_deps_missing()
    & ~AC.any_deps_in_progress()
    & ~AC.in_progress()
    & AC.all_deps_blocking_checks_passed()
).with_label("on_change")


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """When to look at the books, and how often training may follow. Cron expressions, in UTC.

    raises: ValueError for what is no cron expression of five fields
    """

    observe: str = "17 4 * * *"
    """Each tick asks every book's site whether it changed."""

    retrain: str = ""
    """Between two ticks training runs at most once by itself; empty: whenever the corpus changed."""

    def __post_init__(self) -> None:
        for name, cron in (("DEVOPSGPT_OBSERVE_CRON", self.observe), ("DEVOPSGPT_RETRAIN_CRON", self.retrain)):
            if not is_valid_cron_schedule(cron) and (cron or name == "DEVOPSGPT_OBSERVE_CRON"):
                raise ValueError(f"{name} must be a cron expression such as '0 3 * * 0' (Sundays at 3), got {cron!r}")

    @classmethod
    def from_environment(cls) -> "Timetable":
        """DEVOPSGPT_OBSERVE_CRON and DEVOPSGPT_RETRAIN_CRON. raises: ValueError"""
        return cls(
            observe=os.environ.get("DEVOPSGPT_OBSERVE_CRON") or cls.observe,
            retrain=os.environ.get("DEVOPSGPT_RETRAIN_CRON") or cls.retrain,
        )

    @property
    def training_condition(self) -> Any:
        """ON_CHANGE for what is trained, held back until the next tick of `retrain`; the first time waits for none."""
        if not self.retrain:
            return ON_CHANGE
        due = AC.missing() | AC.cron_tick_passed(self.retrain).since_last_handled()
        return (ON_CHANGE & due).with_label("on_change_when_due")


DAILY = Timetable()
