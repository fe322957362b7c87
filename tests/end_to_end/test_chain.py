"""The graph in process, on an ephemeral Dagster instance, with a tiny model and a real MLflow
server."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import dagster as dg
import pytest
from chain_world import CHAIN, Chain

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.config import TrainingConfig
from devopsgpt_pipeline.definitions import build_definitions
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import chain
from devopsgpt_pipeline.profiles import PROFILES
from devopsgpt_pipeline.settings import Settings
from devopsgpt_pipeline.sources.books import books_of_profile
from devopsgpt_pipeline.tracking.client import CHALLENGER, CHAMPION, MODEL_NAME, version_of_alias


@pytest.fixture(scope="module")
def finished(mlflow_server, tmp_path_factory):
    """A home in which the chain ran once; tests read it."""
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(
            Settings(home=home.path, tracking_uri=mlflow_server.url),
            PROFILES["sample"],
            books_of_profile("sample"),
        )
        whole = Chain(home, definitions, instance)
        whole.observe()
        assert set(whole.stale()) == set(CHAIN)
        whole.materialize(CHAIN)
        yield whole


def test_definitions_load(finished):
    dg.Definitions.validate_loadable(finished.definitions)


def test_every_asset_has_group_description_kinds_owners_and_code_version(finished):
    for spec in finished.definitions.resolve_all_asset_specs():
        assert spec.group_name in ("sources", "datasets", "training", "evaluation", "registry"), (
            spec.key
        )
        assert spec.description, spec.key
        assert spec.kinds, spec.key
        assert spec.owners, spec.key
        assert spec.code_version or spec.key.path[0].startswith("book_site"), spec.key


def test_the_chain_ends_in_a_champion_that_loads(finished):
    assert int(finished.blob("champion", "version")) >= 1
    assert finished.blob("champion", "promoted") is True
    checkpoint = load_checkpoint(finished.home.finetuned)
    assert checkpoint.tokenizer.vocab_size == 2048
    assert checkpoint.training["val_loss"] < checkpoint.training["start_val_loss"]


def test_run_again_nothing_is_out_of_date(finished):
    finished.observe()
    assert finished.stale() == []


def test_chapters_tell_what_was_read_and_what_was_left_out(finished):
    assert finished.blob("chapters_steady_service", "dagster/row_count") == 25
    assert any("Index" in entry for entry in finished.blob("chapters_steady_service", "left_out"))
    assert finished.blob("clean_text_night_shift", "characters") > 100_000


def test_the_library_is_as_large_as_promised(finished):
    books = ("chapters_steady_service", "chapters_night_shift")
    assert sum(finished.blob(book, "dagster/row_count") for book in books) >= 24
    texts = [path.read_bytes() for path in finished.home.text.rglob("*.txt")]
    assert sum(len(text) for text in texts) >= 120_000


def test_training_shows_a_loss_curve_and_a_link(finished):
    metadata = finished.metadata("finetuned_checkpoint")
    assert metadata["loss_curve"].value.startswith(
        "![train_loss and val_loss against the step](data:image/png;base64,"
    )
    assert "/#/experiments/" in metadata["mlflow_run"].value


def test_training_reports_live_to_dagster(finished):
    observed = finished.instance.fetch_observations(
        dg.AssetKey("finetuned_checkpoint"), limit=50
    ).records
    assert {record.asset_observation.metadata["step"].value for record in observed} >= {0, 10, 20}


def test_mlflow_shows_the_run(finished, mlflow_server):
    from devopsgpt_pipeline.tracking.client import connect

    client = connect(mlflow_server.url)
    run = client.get_run(finished.home.finetuned_facts()["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert (run.data.params["learning_rate"], run.data.params["optimizer"]) == ("0.01", "muon")
    for name in ("train_loss", "val_loss", "learning_rate", "tokens_per_second"):
        assert len(client.get_metric_history(run.info.run_id, name)) >= 3, name
    assert run.data.metrics["bits_per_byte/books"] < run.data.metrics["start_bits_per_byte/books"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {
        "loss_curve.png",
        "samples.md",
    }
    assert run.inputs.dataset_inputs[0].dataset.name == "books"
    assert len(run.outputs.model_outputs) == 1


def test_the_version_is_tagged_with_its_lineage(finished, mlflow_server):
    from devopsgpt_pipeline.tracking.client import connect

    version = connect(mlflow_server.url).get_model_version(
        MODEL_NAME, str(finished.blob("champion", "version"))
    )
    wanted = (
        "val_loss",
        "data_version",
        "dagster_run_id",
        "mlflow_run_id",
        "git_commit",
        "checkpoint_sha256",
    )
    assert set(wanted) <= set(version.tags)


def test_the_version_records_its_chapters_and_the_runs_of_each_step(finished, mlflow_server):
    from devopsgpt_pipeline.registry.version_lineage import lineage_of
    from devopsgpt_pipeline.tracking.client import connect

    made_of = lineage_of(
        connect(mlflow_server.url), str(finished.blob("champion", "version"))
    ).made_of
    assert len(made_of["chapters"]) == sum(
        finished.blob(f"chapters_{book}", "dagster/row_count")
        for book in ("night_shift", "steady_service")
    )
    assert all(len(one["content_sha256"]) == 64 and one["url"] for one in made_of["chapters"])
    assert {book["licence"] for book in made_of["books"]} == {"MIT"}
    runs = made_of["runs"]["dagster"]
    assert sorted(runs) == ["evaluation", "finetuned_checkpoint", "registered_model"]
    assert all(finished.instance.has_run(run_id) for run_id in runs.values())
    assert made_of["settings"]["optimizer"] == "muon"
    assert made_of["runs"]["mlflow"] == finished.home.finetuned_facts()["mlflow_run_id"]


def test_the_version_carries_a_card_with_the_evaluations_numbers(finished, mlflow_server):
    from huggingface_hub import ModelCard

    from devopsgpt_pipeline.evaluation.comparison import Comparison
    from devopsgpt_pipeline.tracking.client import connect
    from devopsgpt_pipeline.tracking.versions import fetch_document

    text = fetch_document(
        connect(mlflow_server.url), str(finished.blob("champion", "version")), "README.md"
    )
    card, measured = ModelCard(text), Comparison.read(finished.home.evaluation)
    assert card.data.license == "mit"
    assert card.data.datasets is None, "the hub has none of these books"
    results = {
        (one.dataset_type, one.metric_type): one.metric_value for one in card.data.eval_results
    }
    assert results["books", "bits_per_byte"] == pytest.approx(measured.finetuned["bits_per_byte"])
    assert results["books", "memorization"] == measured.memorization


def test_the_launchpad_shows_every_training_setting_with_its_unit(finished):
    fields = finished.job.run_config_schema.config_type.fields["ops"].config_type.fields
    config = fields["finetuned_checkpoint"].config_type.fields["config"].config_type.fields
    assert set(config) == {field.name for field in dataclasses.fields(TrainingConfig)} | {"dataset"}
    assert all(field.description for field in config.values())
    assert config["learning_rate"].default_value == PROFILES["sample"].training.learning_rate
    resources = finished.job.run_config_schema.config_type.fields["resources"].config_type.fields
    assert (
        resources["launcher"]
        .config_type.fields["config"]
        .config_type.fields["processes"]
        .default_value
        == 0
    )


@pytest.fixture
def copied(finished, tmp_path, mlflow_server):
    """The finished home, copied, for tests that change it; a registry of its own would cost five
    seconds."""
    home = Home(tmp_path / "home")
    shutil.copytree(finished.home.path, home.path, symlinks=True)
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(
            Settings(home=home.path, tracking_uri=mlflow_server.url),
            PROFILES["sample"],
            books_of_profile("sample"),
        )
        yield Chain(home, definitions, instance)


def test_a_model_that_is_worse_is_registered_and_not_promoted(copied, mlflow_server):
    from devopsgpt_pipeline.tracking.client import connect

    client = connect(mlflow_server.url)
    before = version_of_alias(client, CHAMPION)
    copied.materialize(CHAIN[5:], max_steps=2, seed=5)
    assert copied.blob("champion", "promoted") is False
    assert version_of_alias(client, CHAMPION) == before != version_of_alias(client, CHALLENGER)
    assert "not better than the champion" in copied.blob("champion", "decision")


def test_a_checkpoint_no_better_than_its_start_is_not_registered(copied, mlflow_server):
    from devopsgpt_pipeline.tracking.client import connect

    before = version_of_alias(connect(mlflow_server.url), CHALLENGER)
    with pytest.raises(chain.ChainError, match="check beats_its_start failed"):
        copied.materialize(CHAIN[5:], learning_rate=1e-12, max_steps=1)
    assert version_of_alias(connect(mlflow_server.url), CHALLENGER) == before
    held = chain.failed_checks(copied.job, copied.instance, [dg.AssetKey("registered_model")])
    assert held[0].startswith("evaluation: beats_its_start")


def test_a_damaged_checkpoint_does_not_pass_the_gate(copied):
    from devopsgpt_pipeline.defs.checks import loads_and_generates
    from devopsgpt_pipeline.defs.resources import HomeResource

    resource = HomeResource(path=str(copied.home.path))
    assert loads_and_generates(home=resource).passed
    weights = copied.home.finetuned / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = loads_and_generates(home=resource)
    assert not result.passed
    assert "damaged" in result.description


def test_weights_that_are_not_finite_do_not_pass_the_gate(copied):
    from safetensors.torch import load_file, save_file

    from devopsgpt_pipeline.defs.checks import loads_and_generates, weights_are_finite
    from devopsgpt_pipeline.defs.resources import HomeResource

    resource = HomeResource(path=str(copied.home.path))
    assert weights_are_finite(home=resource).passed
    path = copied.home.finetuned / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.weight"][0] = float("nan")
    save_file(tensors, path)
    result = weights_are_finite(home=resource)
    assert not result.passed
    assert not loads_and_generates(home=resource).passed
    assert "ln_f.weight holds values that are not finite" in result.description


def test_a_model_that_recites_does_not_pass_the_gate(copied):
    from devopsgpt_model.atomic import write_json
    from devopsgpt_pipeline.defs.checks import MEMORIZATION_LIMIT, does_not_recite
    from devopsgpt_pipeline.defs.resources import HomeResource

    resource = HomeResource(path=str(copied.home.path))
    assert does_not_recite(home=resource).passed
    measured = json.loads(copied.home.evaluation.read_text())
    write_json(copied.home.evaluation, measured | {"memorization": MEMORIZATION_LIMIT + 0.01})
    result = does_not_recite(home=resource)
    assert not result.passed
    assert "11.0% of sampled runs stand in the training text" in result.description


def test_a_leak_between_the_splits_is_found_unless_it_is_named_as_quoted(copied, monkeypatch):
    from devopsgpt_model.tokenizer import Tokenizer
    from devopsgpt_pipeline.datasets.books import split_chapters, write_books
    from devopsgpt_pipeline.defs import checks
    from devopsgpt_pipeline.defs.resources import HomeResource

    resource = HomeResource(path=str(copied.home.path))
    assert checks.nothing_leaked(home=resource).passed
    documents = split_chapters(copied.home.text, ["night-shift", "steady-service"], 0.12)
    passage = documents["train"][4][1][500:1200]
    documents["val"][0] = (documents["val"][0][0], documents["val"][0][1] + passage)
    write_books(
        copied.home.tokens / "books", documents, Tokenizer.load(copied.home.tokens / "books")
    )
    result = checks.nothing_leaked(home=resource)
    assert not result.passed
    assert documents["train"][4][0] in result.description
    monkeypatch.setattr(checks, "QUOTED", (passage,))
    assert checks.nothing_leaked(home=resource).passed


def test_training_with_mlflow_down_is_told_and_loses_nothing(copied):
    before = os.readlink(copied.home.finetuned)
    definitions = build_definitions(
        Settings(home=copied.home.path, tracking_uri="http://127.0.0.1:9"),
        PROFILES["sample"],
        books_of_profile("sample"),
    )
    offline = Chain(copied.home, definitions, copied.instance)
    with pytest.raises(
        chain.ChainError, match=r"no MLflow server answers at http://127.0.0.1:9; start one"
    ):
        offline.materialize(["finetuned_checkpoint"])
    assert os.readlink(copied.home.finetuned) == before


def test_a_training_error_is_told_in_the_trainers_own_words(copied):
    with pytest.raises(
        chain.ChainError, match=r"trainer ended with status 1.*more than block_size tokens, got"
    ):
        copied.materialize(["finetuned_checkpoint"], block_size=10_000_000)
    with pytest.raises(
        chain.ChainError,
        match="init_from must be a checkpoint folder, a model on the Hugging Face hub",
    ):
        copied.materialize(["finetuned_checkpoint"], init_from="./gpt5")


def test_a_setting_out_of_range_in_the_launchpad_is_told(copied):
    run_config = {"ops": {"finetuned_checkpoint": {"config": {"block_size": 0}}}}
    with pytest.raises(chain.ChainError, match="block_size must be at least 1, got 0"):
        chain.materialize(
            copied.job,
            copied.instance,
            copied.events.append,
            [dg.AssetKey("finetuned_checkpoint")],
            run_config,
        )


def test_finetuning_the_champion_starts_from_its_loss(copied):
    copied.materialize(["finetuned_checkpoint"], init_from="champion", learning_rate=1e-9)
    facts = json.loads((copied.home.finetuned / "training.json").read_text())
    assert facts["start_val_loss"] < 7.0


def test_a_killed_run_gives_its_slot_back(finished, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    pids = {"killed": ended.stdout.strip(), "alive": str(os.getpid())}
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        runs = {
            name: instance.create_run_for_job(
                finished.job, status=dg.DagsterRunStatus.STARTED, tags={chain.PID_TAG: pid}
            )
            for name, pid in pids.items()
        }
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        storage.claim_concurrency_slot("gpu", runs["killed"].run_id, "finetuned_checkpoint")
        assert storage.get_concurrency_info("gpu").claimed_slots
        assert chain.end_abandoned_runs(instance) == [runs["killed"].run_id]
        assert storage.get_concurrency_info("gpu").claimed_slots == []
        statuses = [
            instance.get_run_by_id(runs[name].run_id).status for name in ("killed", "alive")
        ]
        assert statuses == [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED]


def test_automation_follows_a_changed_book_and_nothing_else(finished):
    def requested(cursor=None):
        result = dg.evaluate_automation_conditions(
            finished.definitions, finished.instance, cursor=cursor
        )
        keys = {c.key.to_user_string() for c in finished.job.asset_layer.asset_graph.asset_nodes}
        return {
            key for key in keys if result.get_num_requested(dg.AssetKey.from_user_string(key))
        }, result.cursor

    _, cursor = requested()
    quiet, cursor = requested(cursor)
    assert quiet == set()
    seen = dg.AssetObservation("book_site_night_shift", tags={chain.DATA_VERSION_TAG: "edited"})
    finished.instance.report_runless_asset_event(seen)
    fired, cursor = requested(cursor)
    assert fired == {"chapters_night_shift"}
    finished.instance.report_runless_asset_event(seen)
    assert requested(cursor)[0] == set()
