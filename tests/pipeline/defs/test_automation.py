"""The conditions by themselves, on a graph like the chain's end and a clock that the test moves."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from devopsgpt_pipeline.definitions import build_definitions
from devopsgpt_pipeline.defs.automation import ON_CHANGE, check_cron, training_condition
from devopsgpt_pipeline.defs.datasets import TOKEN_BINS
from devopsgpt_pipeline.profiles import PROFILES
from devopsgpt_pipeline.settings import Settings
from devopsgpt_pipeline.sources.books import books_of_profile

MONDAY = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
SUNDAYS = "0 3 * * 0"


YARDSTICK = TOKEN_BINS.to_user_string()
TRAINED = ["checkpoint", "evaluation", "registered", "champion"]


class Clockwork:
    """A corpus that changes, and what follows from it. Ticks do what the daemon does: evaluate, and
    run what fired."""

    def __init__(self, instance, retrain_cron, yardstick=YARDSTICK):
        self.instance, self.cursor, self.yardstick = instance, None, yardstick
        self.version, self.passes, self.trains = "1", True, True
        made = {}

        @dg.asset(check_specs=[dg.AssetCheckSpec("guard", asset="corpus", blocking=True)])
        def corpus():
            results = [dg.AssetCheckResult(passed=self.passes)]
            return dg.MaterializeResult(
                data_version=dg.DataVersion(self.version), check_results=results
            )

        def step(name, *deps, condition=ON_CHANGE):
            @dg.asset(name=name, deps=deps, automation_condition=condition)
            def following():
                if name == "checkpoint" and not self.trains:
                    raise ValueError("no room")
                made[name] = made[deps[0]] if name != yardstick else self.version
                return dg.MaterializeResult(data_version=dg.DataVersion(made[name]))

            return following

        self.definitions = dg.Definitions(
            [
                corpus,
                step(yardstick, "corpus"),
                step("checkpoint", yardstick, condition=training_condition(retrain_cron)),
                step("evaluation", "checkpoint", yardstick),
                step("registered", "checkpoint", "evaluation"),
                step("champion", "registered", yardstick),
            ]
        )

    def change(self, version, passes=True):
        self.version, self.passes = version, passes
        self._run(["corpus"])

    def tick(self, now):
        """What ran."""
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=now
        )
        self.cursor = result.cursor
        fired = [
            name
            for name in (self.yardstick, *TRAINED)
            if result.get_num_requested(dg.AssetKey(name))
        ]
        self._run(fired)
        return fired

    def ticks(self, now, count=5):
        """What ran in so many ticks, in order."""
        return [name for n in range(count) for name in self.tick(now + timedelta(seconds=30 * n))]

    def _run(self, names):
        if names:
            job = self.definitions.resolve_implicit_global_asset_job_def()
            keys = [dg.AssetKey(name) for name in names]
            job.execute_in_process(
                instance=self.instance, asset_selection=keys, raise_on_error=False
            )


@pytest.fixture
def clockwork():
    with dg.DagsterInstance.ephemeral() as instance:

        def wound_up(retrain_cron, yardstick=YARDSTICK):
            works = Clockwork(instance, retrain_cron, yardstick)
            works.tick(MONDAY - DAY)  # nothing is there yet
            return works

        yield wound_up


def test_training_follows_a_change_once(clockwork):
    works = clockwork("")
    works.change("1")
    assert works.ticks(MONDAY) == [YARDSTICK, *TRAINED]
    works.change("1")
    assert works.ticks(MONDAY + DAY, 2) == []
    works.change("2")
    assert works.ticks(MONDAY + 2 * DAY) == [YARDSTICK, *TRAINED]


@pytest.mark.parametrize(("retrain_cron", "trained"), [("", ["checkpoint"]), (SUNDAYS, [])])
def test_a_home_from_before_the_rename_is_brought_up_to_date_once(clockwork, retrain_cron, trained):
    """Its books' token bins have another key, and no book changes; nor does what is trained."""
    before = clockwork(retrain_cron, "token_bins_sre")
    before.change("1")
    assert before.ticks(MONDAY) == ["token_bins_sre", *TRAINED]
    works = Clockwork(before.instance, retrain_cron)
    works.cursor = before.cursor
    assert works.ticks(MONDAY + DAY) == [YARDSTICK, *trained]
    assert works.ticks(MONDAY + 2 * DAY, 2) == []
    works.change("2")
    assert works.ticks(MONDAY + 8 * DAY) == [YARDSTICK, *TRAINED]


def test_a_failed_training_is_not_tried_again_until_something_changes(clockwork):
    works = clockwork("")
    works.trains = False
    works.change("1")
    assert works.ticks(MONDAY, 4) == [YARDSTICK, "checkpoint"]
    works.trains = True
    assert works.ticks(MONDAY + DAY, 2) == []
    works.change("2")
    assert works.ticks(MONDAY + 2 * DAY) == [YARDSTICK, *TRAINED]


def test_a_failed_guard_holds_everything_back_until_it_passes(clockwork):
    works = clockwork("")
    works.change("1")
    works.ticks(MONDAY)
    works.change("2", passes=False)
    assert works.ticks(MONDAY + DAY, 2) == []
    works.change("2", passes=True)
    assert works.ticks(MONDAY + 2 * DAY) == [YARDSTICK, *TRAINED]


def test_training_is_held_to_once_between_two_ticks(clockwork):
    works = clockwork(SUNDAYS)
    works.change("1")
    assert works.ticks(MONDAY) == [YARDSTICK, *TRAINED]  # the first waits for no tick
    for day in range(1, 6):
        works.change(f"edited on day {day}")
        assert works.ticks(MONDAY + day * DAY, 2) == [YARDSTICK]
    assert works.ticks(MONDAY + 6 * DAY) == TRAINED  # a Sunday, after 3
    works.change("edited on Sunday evening")
    assert works.ticks(MONDAY + 6.3 * DAY) == [YARDSTICK]
    assert works.ticks(MONDAY + 13 * DAY) == TRAINED


def test_a_tick_without_a_change_trains_nothing(clockwork):
    works = clockwork(SUNDAYS)
    works.change("1")
    works.ticks(MONDAY)
    assert works.ticks(MONDAY + 6 * DAY) == []
    works.change("2")  # the Sunday that passed counts: nothing was trained since
    assert works.ticks(MONDAY + 7 * DAY) == [YARDSTICK, *TRAINED]


@pytest.mark.parametrize("name", ["observe_cron", "retrain_cron"])
def test_a_schedule_that_cannot_be_is_told_with_its_variable(name):
    settings = Settings(**{name: "hourly"})
    wanted = f"DEVOPSGPT_{name.upper()} must be a cron expression .* got 'hourly'"
    with pytest.raises(ValueError, match=wanted):
        build_definitions(settings, PROFILES["sample"], books_of_profile("sample"))


@pytest.mark.parametrize("cron", ["17 4 * * *", "@daily", "*/5 * * * MON", "0 0 L * *"])
def test_cron_expressions_and_their_short_names_are_accepted(cron):
    check_cron("DEVOPSGPT_OBSERVE_CRON", cron)


@pytest.mark.parametrize(
    "cron", ["", "every day", "61 * * * *", "0 0 1 1 * *", "@reboot", "0 0 31 2 *"]
)
def test_what_no_schedule_can_have_is_refused(cron):
    with pytest.raises(ValueError, match="must be a cron expression such as") as told:
        check_cron("DEVOPSGPT_OBSERVE_CRON", cron)
    assert str(told.value).startswith("DEVOPSGPT_OBSERVE_CRON")
    assert str(told.value).endswith(f"got {cron!r}")


def test_what_computes_on_a_gpu_takes_turns_and_so_does_what_moves_an_alias(tmp_path):
    definitions = build_definitions(
        Settings(home=tmp_path), PROFILES["sample"], books_of_profile("sample")
    )
    graph = definitions.resolve_asset_graph()
    pools = {key.path[0]: graph.get(key).pools for key in graph.materializable_asset_keys}
    expected = {
        "gpu": {"finetuned_checkpoint", "evaluation", "gpt2_baseline"},
        "registry": {"registered_model", "champion"},
    }
    for pool, names in expected.items():
        assert {name for name, theirs in pools.items() if pool in theirs} == names
    assert (
        definitions.resolve_job_def("sweep_trial").get_node_named("train_trial").definition.pool
        == "gpu"
    )
