"""When assets are made unattended."""

from typing import Any

import dagster as dg

from devopsgpt_pipeline.defs.datasets import TOKEN_BINS

AC: Any = dg.AutomationCondition  # its type parameters do not combine under mypy


def on_change(inputs: Any) -> Any:
    """Fires when one of `inputs` changed its data version, or once for an asset that was never
    there.

    Not again for the same version, not again after a failure, not while a blocking check of an
    input fails, and not before the inputs that the same change will make anew are there.
    """
    return (
        # not since_last_handled: that forgets what was missing when it was looked at first, as the
        # books' token bins of a home from before they were renamed
        (inputs | AC.missing().newly_true()).since(AC.newly_requested() | AC.newly_updated())
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


def check_cron(variable: str, cron: str) -> None:
    """Have Dagster judge an expression. raises: ValueError for one that a schedule cannot have"""
    try:
        dg.ScheduleDefinition(name="probe", job_name="probe", cron_schedule=cron)
    except dg.DagsterInvalidDefinitionError:
        raise ValueError(
            f"{variable} must be a cron expression such as '0 3 * * 0' (Sundays at 3), got {cron!r}"
        ) from None


def training_condition(retrain_cron: str) -> Any:
    """For what is trained: any change, held back until the next tick; the first training waits for
    none.

    retrain_cron: empty where nothing is held back
    """
    if not retrain_cron:
        return on_change(CHANGED).with_label("on_change")
    due = AC.missing() | AC.cron_tick_passed(retrain_cron).since_last_handled()
    return (on_change(CHANGED) & due).with_label("on_change_when_due")


def on_change_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates every asset's condition."""
    return dg.AutomationConditionSensorDefinition(
        "on_change",
        target=dg.AssetSelection.all(include_sources=True),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,  # the chain is seven steps, and each waits for a tick
    )


def observe_daily(job: Any, cron: str) -> dg.ScheduleDefinition:
    """Looks for changed books at these times (UTC); every day, where nobody set other times."""
    return dg.ScheduleDefinition(
        name="observe_books_daily",
        job=job,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
