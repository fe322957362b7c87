import time

import pytest
from mlflow.exceptions import MlflowException

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.registry.gate import decide
from devopsgpt_pipeline.tracking import versions as publishing
from devopsgpt_pipeline.tracking.client import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    TrackingUnavailable,
    connect,
    experiment_id,
    version_of_alias,
)
from devopsgpt_pipeline.tracking.runs import run_status
from devopsgpt_pipeline.tracking.versions import fetch_version, publish
from devopsgpt_pipeline.training.prepare import initial_checkpoint


def publish_one(registry, checkpoint_folder, run_id):
    return publish(registry, checkpoint_folder, run_id, {"val_loss": "1.5"}, "a test")


def test_a_published_version_is_complete_and_comes_back(
    registry, checkpoint_folder, run_id, tmp_path
):
    version = publish_one(registry, checkpoint_folder, run_id)
    assert version_of_alias(registry, CHALLENGER) == version
    assert registry.get_model_version(MODEL_NAME, version).tags["val_loss"] == "1.5"
    folder = fetch_version(registry, version, tmp_path / "fetched")
    assert load_checkpoint(folder).training == {"step": 1}
    assert (folder.parent / "MLmodel").read_text().startswith("artifact_path: devopsgpt")


def test_a_version_holds_data_only(registry, checkpoint_folder, run_id, tmp_path):
    folder = fetch_version(
        registry, publish_one(registry, checkpoint_folder, run_id), tmp_path / "fetched"
    ).parent
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        *("MLmodel", "components/tokenizer/tokenizer.json"),
        *("components/tokenizer/tokenizer_config.json", "manifest.json"),
        *("model/config.json", "model/generation_config.json"),
        *(
            "model/model.safetensors",
            "model/tokenizer.json",
            "model/tokenizer_config.json",
            "model/training.json",
        ),
    ]


def test_a_run_shows_its_settings_its_data_and_its_model(registry, checkpoint_folder, run_id):
    publish_one(registry, checkpoint_folder, run_id)
    run = registry.get_run(run_id)
    assert run.data.params["max_steps"] == "3"
    assert run.inputs.dataset_inputs[0].dataset.digest == "abc"
    assert len(run.outputs.model_outputs) == 1


def test_a_failed_upload_registers_nothing_and_moves_no_alias(
    registry, checkpoint_folder, run_id, monkeypatch
):
    first = publish_one(registry, checkpoint_folder, run_id)
    monkeypatch.setattr(
        publishing, "stage_artifact", lambda *_: (_ for _ in ()).throw(OSError("no space left"))
    )
    with pytest.raises(OSError, match="no space left"):
        publish_one(registry, checkpoint_folder, run_id)
    assert version_of_alias(registry, CHALLENGER) == first
    assert len(registry.search_model_versions(f"name = '{MODEL_NAME}'")) == 1


def test_a_damaged_artifact_is_noticed(
    registry, checkpoint_folder, run_id, tmp_path, mlflow_server
):
    version = publish_one(registry, checkpoint_folder, run_id)
    model_id = registry.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    stored = next(
        (mlflow_server.log.parent.parent / "mlflow" / "artifacts").rglob(
            f"{model_id}/**/model.safetensors"
        )
    )
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"model/model\.safetensors is missing or damaged"):
        fetch_version(registry, version, tmp_path / "fetched")


def test_a_champion_to_start_from_is_taken_whole_or_not_at_all(
    registry, checkpoint_folder, run_id, tmp_path, mlflow_server
):
    home, version = Home(tmp_path / "home"), publish_one(registry, checkpoint_folder, run_id)
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
    model_id = registry.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    stored = next(
        (mlflow_server.log.parent.parent / "mlflow" / "artifacts").rglob(
            f"{model_id}/**/model.safetensors"
        )
    )
    good = stored.read_bytes()
    stored.write_bytes(good[:-1] + b"x")
    for _ in range(2):  # what was fetched and found damaged is not taken for good the next time
        with pytest.raises(ValueError, match=r"model/model\.safetensors is missing or damaged"):
            initial_checkpoint(home, registry, CHAMPION)
    assert list(home.training.iterdir()) == []
    stored.write_bytes(good)
    initial = initial_checkpoint(home, registry, CHAMPION)
    assert initial.source == f"{MODEL_NAME} version {version}"
    assert initial.folder == home.training / f"champion-{version}" / "model"
    assert load_checkpoint(initial.folder).training == {"step": 1}
    stored.unlink()
    assert initial_checkpoint(home, registry, CHAMPION) == initial  # kept


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [
        *((1.5, None, True), (1.9999, None, True), (2.5, None, False), (float("nan"), None, False)),
        *(
            (1.5, 1.6, True),
            (1.6, 1.6, False),
            (1.5999, 1.6, False),
            (1.7, 1.6, False),
            (float("nan"), 1.6, False),
        ),
    ],
)
def test_the_better_version_wins(challenger, champion, promoted):
    decision = decide(challenger, champion, start=2.0, margin=0.001)
    assert decision.promote is promoted
    assert f"{challenger:.4f} bits/byte" in decision.reason


def test_the_margin_can_be_set():
    assert decide(1.5, 1.6, start=2.0, margin=0.05).promote
    assert not decide(1.5, 1.6, start=2.0, margin=0.2).promote


def test_a_missing_alias_is_none(registry):
    assert version_of_alias(registry, CHAMPION) is None


def test_runs_end_as_they_ended(registry):
    client = registry

    def status_after(error):
        run_id = client.create_run(experiment_id(client)).info.run_id
        try:
            with run_status(client, run_id):
                assert client.get_run(run_id).info.status == "RUNNING"
                if error:
                    raise error
        except BaseException as caught:
            assert caught is error
        return client.get_run(run_id).info.status

    assert [status_after(e) for e in (None, ValueError("x"), KeyboardInterrupt())] == [
        "FINISHED",
        "FAILED",
        "KILLED",
    ]


def test_a_server_that_is_down_is_told_within_seconds(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    uri, began = f"http://127.0.0.1:{servers.free_port()}", time.monotonic()
    with pytest.raises(TrackingUnavailable, match=f"no MLflow server answers at {uri}"):
        connect(uri)
    assert time.monotonic() - began < 20  # the client's own patience is minutes


def test_a_missing_version_is_an_error(registry, tmp_path):
    with pytest.raises(MlflowException):
        fetch_version(registry, "9", tmp_path)
