"""When things run with no hand on them."""

import dagster as dg

AC = dg.AutomationCondition

# Fires when an input's data version changed, or once for an asset that was never there; not again for the same
# version, not again after a failure, and not while a blocking check of an input fails.
ON_CHANGE = (
    (AC.any_deps_match(AC.data_version_changed()) | AC.missing().newly_true()).since_last_handled()
    & ~AC.any_deps_missing()
    & ~AC.any_deps_in_progress()
    & ~AC.in_progress()
    & AC.all_deps_blocking_checks_passed()
).with_label("on_change")
