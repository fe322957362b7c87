"""What is old goes; what is served, current or in use stays."""

import os
import shutil
import time

import dagster as dg
import pytest

from devopsgpt_model.atomic import atomic_folder, write_json
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.models import NEEDED
from devopsgpt_pipeline.hub.pretrained import fetch_from_hub
from devopsgpt_pipeline.hub.source import BY_HAND
from devopsgpt_pipeline.operations.retention import (
    cut_logs,
    forget_folders,
    forget_orphans,
    forget_runs,
    forget_temporary,
    forget_versions,
)
from devopsgpt_pipeline.operations.retention_job import Retention, retention
from devopsgpt_pipeline.registry.promote import promote_by_hand
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, experiment_id, version_of_alias
from devopsgpt_pipeline.tracking.versions import fetch_version, publish


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def four_versions(registry, checkpoint_folder, tmp_path):
    """Version 1 is the champion, 4 the challenger. returns: their logged models' ids"""
    run = registry.create_run(experiment_id(registry)).info.run_id
    for _ in range(4):
        publish(registry, checkpoint_folder, run, {}, "tiny")
    promote_by_hand(registry, "1", "a test", tmp_path / "promotion.lock")
    versions = registry.search_model_versions(f"name = '{MODEL_NAME}'")
    return {str(found.version): found.source.rpartition("/")[2] for found in versions}


def test_old_versions_go_with_their_files_and_named_ones_stay(registry, four_versions, tmp_path):
    assert sorted(forget_versions(registry, keep=1)) == ["2", "3"]
    left = {found.version for found in registry.search_model_versions(f"name = '{MODEL_NAME}'")}
    assert {str(version) for version in left} == {"1", "4"}
    assert forget_orphans(registry, days=1) == []  # young: it may be an upload under way
    assert set(forget_orphans(registry, days=0)) >= {four_versions["2"], four_versions["3"]}
    for version in ("1", "4"):
        assert (fetch_version(registry, version, tmp_path / version) / "model.safetensors").exists()
    assert version_of_alias(registry, CHAMPION) == "1"
    assert forget_orphans(registry, days=0) == []


def test_the_files_of_a_forgotten_version_are_gone(registry, four_versions, mlflow_server):
    from mlflow.artifacts import list_artifacts

    location = registry.get_logged_model(four_versions["2"]).artifact_location
    assert list_artifacts(location, tracking_uri=mlflow_server.url)
    forget_versions(registry, keep=1)
    forget_orphans(registry, days=0)
    assert list_artifacts(location, tracking_uri=mlflow_server.url) == []


@dg.asset
def thing():
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


@dg.asset_check(asset=thing)
def thing_is_good():
    return dg.AssetCheckResult(passed=True)


def test_runs_go_but_not_those_that_tell_what_an_asset_is_now(home):
    with dg.DagsterInstance.ephemeral() as instance:
        runs = [dg.materialize([thing, thing_is_good], instance=instance).run_id for _ in range(3)]
        logs = home.dagster / "storage" / runs[0] / "compute_logs"
        logs.mkdir(parents=True)
        assert forget_runs(instance, home, days=1) == []
        assert sorted(forget_runs(instance, home, days=0)) == sorted(runs[:2])
        assert [run.run_id for run in instance.get_runs()] == [runs[2]]
        assert instance.get_latest_materialization_event(thing.key) is not None
        assert not logs.parent.exists()


def test_a_forgotten_run_leaves_no_file_of_events(home):
    with dg.DagsterInstance.local_temp(str(home.dagster)) as instance:
        runs = [dg.materialize([thing], instance=instance).run_id for _ in range(2)]
        events = home.dagster / "history" / "runs"
        assert {path.stem for path in events.glob("*-*.db")} == set(runs)
        assert forget_runs(instance, home, days=0) == runs[:1]
        assert {path.stem for path in events.glob("*-*.db")} == {runs[1]}


def age(path, days):
    when = time.time() - days * 86_400
    for each in (*path.rglob("*"), path):
        os.utime(each, (when, when))


def test_work_that_nobody_went_on_with_goes(home):
    for name in ("young", "old"):
        (home.training / name).mkdir(parents=True)
        (home.training / name / "state").write_text("x")
    with atomic_folder(home.finetuned) as folder:
        (folder / "config.json").write_text("{}")
    half = home.checkpoints / ".finetuned.halfway"
    half.mkdir()
    for path in (home.training / "old", half, home.finetuned.resolve()):
        age(path, 15)
    assert set(forget_folders(home, days=14)) == {home.training / "old", half}
    assert (home.training / "young").is_dir()
    assert (home.finetuned / "config.json").exists()


def test_what_a_killed_step_left_in_the_temporary_folder_goes(home):
    assert forget_temporary(home, days=1) == []
    for name in ("young", "old"):
        (home.temporary / name / "model").mkdir(parents=True)
        (home.temporary / name / "model" / "weights").write_text("x")
    (home.temporary / "old.db").write_text("x")
    for path in (home.temporary / "old", home.temporary / "old.db"):
        age(path, 2)
    assert set(forget_temporary(home, days=1)) == {
        home.temporary / "old",
        home.temporary / "old.db",
    }
    assert [path.name for path in home.temporary.iterdir()] == ["young"]


def fetched(home, commit, name=None, days=15):
    """A commit of owner/name, fetched long ago. name: what stands for it now"""
    if name:
        (home.hub / "resolved").mkdir(parents=True, exist_ok=True)
        note = home.hub / "resolved" / f"{name.replace('/', '--')}.json"
        write_json(note, {"repository": "owner/name", "commit": commit})
    folder = home.hub / "owner--name" / commit
    folder.mkdir(parents=True)
    for file in NEEDED:
        (folder / file).write_text("{}")
    age(folder, days)
    return folder


def test_commits_of_the_hub_go_once_nothing_names_them_and_nothing_began_with_them(home):
    old, young = fetched(home, "a" * 40), fetched(home, "b" * 40, days=13)
    newest, pinned = (
        fetched(home, "c" * 40, "owner/name"),
        fetched(home, "d" * 40, f"owner/name@{'d' * 40}"),
    )
    starts = {
        place: fetched(home, letter * 40)
        for place, letter in (("finetuned", "e"), ("under way", "f"))
    }
    with atomic_folder(home.finetuned) as folder:
        write_json(folder / "training.json", {"init_checkpoint": str(starts["finetuned"])})
    (home.training / "job").mkdir(parents=True)
    write_json(home.training / "job" / "train.json", {"init_checkpoint": str(starts["under way"])})
    assert forget_folders(home, days=14) == [old]
    assert all(folder.is_dir() for folder in (young, newest, pinned, *starts.values()))
    assert fetch_from_hub(f"owner/name@{'d' * 40}", home.hub)[1] == pinned
    shutil.rmtree(home.training / "job")
    assert forget_folders(home, days=14) == [starts["under way"]]
    age(young, 15)
    assert forget_folders(home, days=14) == [young]


def test_encoded_shards_that_nobody_went_on_with_go_and_those_brought_by_hand_stay(home):
    places = {
        name: home.downloads / "openwebtext" / name
        for name in ("0123456789ab", "under way", BY_HAND)
    }
    for place in places.values():
        (place / "data").mkdir(parents=True)
        (place / "data" / "00000.parquet").write_bytes(b"x")
        age(place, 15)
    (places["under way"] / "data" / "00001.bin.tmp").write_bytes(b"x")
    assert forget_folders(home, days=14) == [places["0123456789ab"]]
    assert sorted(path.name for path in (home.downloads / "openwebtext").iterdir()) == [
        BY_HAND,
        "under way",
    ]


def test_a_long_log_is_cut_and_its_writer_goes_on(home):
    log = home.logs / "mlflow.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"".join(b"line %04d\n" % number for number in range(1000)))
        assert cut_logs(home, 1_000_000) == []
        assert cut_logs(home, 1000) == [log]
        writer.write(b"after\n")
    lines = log.read_text().splitlines()
    assert lines[-2:] == ["line 0999", "after"]
    assert all(len(line) == 9 for line in lines[:-1])
    assert log.stat().st_size < 600


def test_the_daily_job_does_all_of_it(home, registry, four_versions, mlflow_server):
    with dg.DagsterInstance.ephemeral() as instance:
        result = retention.execute_in_process(
            instance=instance,
            resources={
                "home": HomeResource(path=str(home.path)),
                "mlflow": MlflowResource(tracking_uri=mlflow_server.url, ui_url=mlflow_server.url),
            },
            run_config=dg.RunConfig({"forget_what_is_old": Retention(versions=1, orphan_days=0)}),
        )
    assert result.success
    assert len(registry.search_model_versions(f"name = '{MODEL_NAME}'")) == 2
