"""Promotion under trouble: never two champions, never none where there was one, no alias on half a
version."""

import os
import signal
import subprocess
import time

import pytest
from conftest import DEVOPSGPT, REPOSITORY
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.registry.gate import judge_challenger
from devopsgpt_pipeline.registry.promote import promote, rollback
from devopsgpt_pipeline.tracking.client import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    PREVIOUS,
    aliases_by_name,
    version_of_alias,
)
from devopsgpt_pipeline.tracking.versions import fetch_version, publish
from pipeline.registry.contenders import aliases, save_contender
from pipeline.registry.judges import MARGIN, Judges, Watch
from pipeline.registry.mlflow_proxy import WAYS, MlflowProxy

SET_CHAMPION = "POST registered-models/alias champion"
LAST_TAG = "decision_held_out_sha256"  # of a decision, before any alias moves


@pytest.fixture
def proxy(mlflow_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy = MlflowProxy(mlflow_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def contest(registry, better, run_id):
    """A champion and a better challenger."""
    plain, learned = better
    one = publish(registry, plain, run_id, {}, "plain")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    return one, publish(registry, learned, run_id, {}, "better")


class WholeVersions:
    """Sees to it that no alias stands on half a version."""

    def __init__(self, registry, folder):
        self.registry, self.folder, self.seen = registry, folder, set()

    def check(self):
        for version in set(aliases_by_name(self.registry).values()) - self.seen:
            fetch_version(self.registry, version, self.folder / version)  # or it raises
            self.seen.add(version)


@pytest.fixture
def whole(registry, tmp_path):
    return WholeVersions(registry, tmp_path / "fetched")


def call_until_through(proxy, way, step, check):
    """Run the step with its first, second, ... call failing, until no call is left to fail.
    returns: calls in all"""
    for call in range(1, 100):
        calls = fail_once(proxy, call, way, step, check)
        if calls < call:
            return call - 1
    raise AssertionError("the step never ran through")


def fail_once(proxy, call, way, step, check):
    """Run the step with one call failing, and look at what is left. returns: calls that were
    made"""
    proxy.fail_at(call, way)
    try:
        step()
    except (MlflowException, OSError, ValueError):
        assert len(proxy.calls) >= call, "it failed by itself"
    calls = len(proxy.calls)
    proxy.fail_at(0, way)
    check()
    return calls


@pytest.mark.parametrize("way", WAYS)
def test_mlflow_failing_at_each_call_of_a_promotion(registry, versions, lock, proxy, way):
    one, two = versions
    client = MlflowClient(proxy.url, proxy.url)

    def step():
        promote(client, two, "better", expected_champion=one, lock=lock)

    def check():
        champion, previous = aliases(registry)
        assert champion in (one, two)
        assert previous == one or champion == one
        if champion == two:  # back to the beginning for the next call
            registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
            registry.delete_registered_model_alias(MODEL_NAME, PREVIOUS)

    assert call_until_through(proxy, way, step, check) >= 4  # read, tag, previous, champion


class Judgement:
    """A whole run of the gate over a connection that fails, and what must hold after it."""

    def __init__(self, registry, contest, yardstick, lock, proxy, whole):
        self.registry, (self.one, self.two), self.whole = registry, contest, whole
        self.yardstick, self.lock = yardstick, lock
        self.client = MlflowClient(proxy.url, proxy.url)

    def run(self):
        judge_challenger(self.client, self.yardstick, self.lock, MARGIN)

    def check_and_finish(self):
        self.check_as_it_is()
        # who tries again finishes
        assert (
            judge_challenger(self.registry, self.yardstick, self.lock, MARGIN).champion == self.two
        )
        assert aliases(self.registry) == (self.two, self.one)
        self.check()

    def check(self):
        self.check_as_it_is()
        self.reset()

    def check_as_it_is(self):
        champion, previous = aliases(self.registry)
        assert champion in (self.one, self.two)
        assert version_of_alias(self.registry, CHALLENGER) == self.two
        self.whole.check()
        if champion == self.two:
            assert previous == self.one
            tags = self.registry.get_model_version(MODEL_NAME, self.two).tags
            assert (tags["decision"], tags["decision_against"]) == (
                "promote",
                f"version {self.one}",
            )
            assert tags["promotion_reason"] == tags["decision_reason"]

    def reset(self):
        self.registry.set_registered_model_alias(MODEL_NAME, CHAMPION, self.one)
        self.registry.delete_registered_model_alias(MODEL_NAME, PREVIOUS)
        for key in self.registry.get_model_version(MODEL_NAME, self.two).tags:
            self.registry.delete_model_version_tag(MODEL_NAME, self.two, key)


@pytest.fixture
def judgement(registry, contest, yardstick, lock, proxy, whole):
    return Judgement(registry, contest, yardstick, lock, proxy, whole)


def test_mlflow_failing_in_the_middle_of_the_gate(judgement, proxy):
    proxy.fail_at(0, "refused")
    judgement.run()
    kinds = list(proxy.calls)
    judgement.check()
    for kind, way in zip(
        ("GET artifacts", f"POST model-versions/set-tag {LAST_TAG}", SET_CHAMPION),
        WAYS,
        strict=True,
    ):
        fail_once(proxy, kinds.index(kind) + 1, way, judgement.run, judgement.check)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", WAYS)
def test_mlflow_failing_at_each_call_of_the_gate(judgement, proxy, way):
    assert call_until_through(proxy, way, judgement.run, judgement.check_and_finish) > 30


@pytest.mark.parametrize(
    "way", ["refused", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])]
)
def test_mlflow_failing_at_each_call_of_a_registration(
    registry, versions, checkpoint_folder, run_id, proxy, whole, way
):
    one, _ = versions
    client = MlflowClient(proxy.url, proxy.url)
    challengers = []

    def check():
        assert version_of_alias(registry, CHAMPION) == one
        challengers.append(version_of_alias(registry, CHALLENGER))
        assert challengers[-1] is not None
        whole.check()

    calls = call_until_through(
        proxy, way, lambda: publish(client, checkpoint_folder, run_id, {}, "a test"), check
    )
    assert calls >= 8
    # the one before, and the one of the run in which nothing failed
    assert len(set(challengers)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_mlflow_failing_at_each_call_of_a_rollback(registry, versions, lock, proxy, way):
    one, two = versions
    promote(registry, two, "better", expected_champion=one, lock=lock)
    client = MlflowClient(proxy.url, proxy.url)

    def check():
        champion, previous = aliases(registry)
        assert champion in (one, two)
        assert previous in (one, two)
        registry.set_registered_model_alias(MODEL_NAME, PREVIOUS, one)
        registry.set_registered_model_alias(MODEL_NAME, CHAMPION, two)

    calls = call_until_through(proxy, way, lambda: rollback(client, "worse", lock), check)
    assert calls >= 8  # both aliases, the version and its files, then as a promotion


@pytest.fixture
def judges(mlflow_server, yardstick, lock):
    return Judges(mlflow_server.url, yardstick, lock)


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def decided(registry, version):
    return LAST_TAG in registry.get_model_version(MODEL_NAME, version).tags


@pytest.mark.parametrize("how", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_of_two_gates_that_decided_against_the_same_champion_the_second_decides_anew(
    registry, contest, run_id, judges, tmp_path, whole, how
):
    one, two = contest
    with Watch(judges.url) as watch, getattr(judges, how)() as begin:
        with FileLock(judges.lock):  # both have decided, none may move an alias yet
            first = begin()
            wait_for(lambda: decided(registry, two))
            three = publish(
                registry, save_contender(tmp_path / "best", 20), run_id, {}, "better still"
            )
            second = begin()
            wait_for(lambda: decided(registry, three))
            against = [
                registry.get_model_version(MODEL_NAME, version).tags["decision_against"]
                for version in (two, three)
            ]
            assert against == [f"version {one}"] * 2
            assert aliases(registry) == (one, None)
        ends = [first(), second()]
    assert version_of_alias(registry, CHAMPION) == three  # whoever came first
    assert watch.seen in ([one, three], [one, two, three])
    assert ends[1] == (three, three)
    assert ends[0] in ((two, two), (three, three))
    assert aliases(registry)[1] == (two if ends[0] == (two, two) else one)
    whole.check()


@pytest.mark.slow
def test_a_gate_and_a_person_at_once(
    registry, contest, run_id, judges, checkpoint_folder, tmp_path, whole
):
    one, two = contest
    three = publish(registry, checkpoint_folder, run_id, {}, "a person's choice")
    registry.set_registered_model_alias(MODEL_NAME, CHALLENGER, two)
    environment = os.environ | {"DEVOPSGPT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": judges.url}
    judges.lock.parent.mkdir(exist_ok=True)
    command = [*DEVOPSGPT, "promote", three, "--reason", "I say so"]
    judges.arguments = (judges.arguments[0], Home(tmp_path).promotion_lock)
    with Watch(judges.url) as watch, judges.processes(1) as begin:
        with FileLock(Home(tmp_path).promotion_lock):
            person = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            judge = begin()
            wait_for(lambda: decided(registry, two))
            time.sleep(0.5)
            assert person.poll() is None
            assert aliases(registry) == (one, None)
        told, end = person.communicate(timeout=60)[0], judge()
    champion, previous = aliases(registry)
    assert watch.seen[0] == one
    assert None not in watch.seen
    assert (watch.seen[-1], watch.seen[-2]) == (champion, previous)
    if person.returncode:
        assert (
            f"the champion is version {two}, the decision was made against {one}; decide again"
            in told
        )
        assert champion == two
    else:
        assert f"version {three} is the champion" in told
    assert end[0] == two
    whole.check()


@pytest.mark.slow
def test_a_promoter_that_is_killed_before_the_last_call_lets_the_next_one_finish(
    registry, contest, judges, proxy, whole
):
    one, two = contest
    judges.url, proxy.hold = proxy.url, lambda kind: kind == SET_CHAMPION
    with Watch(judges.url) as watch, judges.processes() as begin:
        killed = begin()
        assert proxy.held.wait(60)
        proxy.hold = lambda kind: False
        other = begin()
        wait_for(lambda: proxy.calls.count(f"POST model-versions/set-tag {LAST_TAG}") == 2)
        # `previous` is set, the other one waits for the lock
        assert aliases(registry) == (one, one)
        killed.process.send_signal(signal.SIGKILL)
        proxy.released.set()
        assert other() == (two, two)
    assert watch.seen == [one, two]
    assert aliases(registry) == (two, one)
    whole.check()
