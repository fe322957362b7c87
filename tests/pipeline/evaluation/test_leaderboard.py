"""The leaderboard, and MLflow's own search over the same runs: a real server, real assets."""

import dataclasses
import io

import dagster as dg
import pytest
from click.testing import CliRunner

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPT2_SIZES, TrainingConfig, in_millions
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.defs.automation import ON_MEASURED
from devopsgpt_pipeline.defs.baselines import build_gpt2_baseline
from devopsgpt_pipeline.defs.evaluation import evaluation
from devopsgpt_pipeline.defs.leaderboard import leaderboard
from devopsgpt_pipeline.defs.pictures import loss_against_parameters
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.evaluation.leaderboard import (
    BY_PROTOCOL,
    EARLIER,
    LIKE_WITH_LIKE,
    SHOWN_BENCHMARKS,
    Entry,
    Leaderboard,
    read_leaderboard,
    with_published,
)
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, connect, experiment_id
from devopsgpt_pipeline.tracking.runs import baseline_run, log_final, run_status, start_run
from devopsgpt_pipeline.tracking.versions import publish
from devopsgpt_pipeline.training.prepare import training_job

DOCUMENTS = {
    "train": [("a", "a steady service answers. " * 60)],
    "val": [("b", "a slow answer is an answer. " * 40)],
}
DATASETS = ("books", "openwebtext")
TAGS = {"kind": "finetune", "dagster_run_id": "dagster-1", "git_commit": "c0ffee"}


class World:
    """A home with two datasets, the instance and the assets that measure in it."""

    def __init__(self, home, url, instance):
        self.home, self.url, self.instance, self.client = home, url, instance, connect(url)
        self.resources = {
            "home": HomeResource(path=str(home.path)),
            "mlflow": MlflowResource(tracking_uri=url, ui_url=url),
        }
        self.write_bins()

    def write_bins(self, documents=DOCUMENTS):
        for name in DATASETS:
            write_token_bins(self.home.tokens / name, name, Tokenizer.plain_bytes(), documents)

    def baseline(self, size, dataset):
        key = dg.MultiPartitionKey({"model": size, "dataset": dataset})
        config = {"ops": {"gpt2_baseline": {"config": {"batches": 2}}}}
        asset = build_gpt2_baseline(list(DATASETS))
        self.materialize(asset, partition_key=key, run_config=config)

    def finetune(self, model, **settings):
        """A finished run and its evaluation, as training leaves them."""
        config = TrainingConfig(init_from="gpt2", device="cpu", **settings)
        prepared = training_job(self.home, self.client, config, "books", "1", TAGS)
        with prepared as job, run_status(self.client, job.mlflow_run_id):
            facts = {
                "config": vars(config),
                "init_checkpoint": str(job.init_checkpoint),
                "dataset": "books",
                "step": 7,
            }
            facts["mlflow_run_id"] = job.mlflow_run_id
            save_checkpoint(self.home.finetuned, model, Tokenizer.plain_bytes(), facts)
        self.materialize(evaluation, run_config={"ops": {"evaluation": {"config": {"batches": 2}}}})
        return job.mlflow_run_id

    def run_of(self, size):
        """The run of a baseline."""
        return self.client.get_run(baseline_run(self.client, size, 0))

    def materialize(self, asset, **how):
        result = dg.materialize([asset], resources=self.resources, instance=self.instance, **how)
        (event,) = result.asset_materializations_for_node(asset.key.path[0])
        return event.metadata


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two baselines on two datasets, one of them on both, and a fine-tune; a server of its own, for
    it counts runs."""
    from devopsgpt_model.config import GPTConfig
    from devopsgpt_pipeline.local import servers

    home = Home(tmp_path_factory.mktemp("home")).prepare()
    small = GPTConfig(vocab_size=257, block_size=256, n_layer=1, n_head=2, n_embd=16)
    large = dataclasses.replace(small, n_embd=32)
    for size, config in (("gpt2", small), ("gpt2-medium", large)):
        save_checkpoint(
            home.pretrained / size, GPT(config).init_weights(1).eval(), Tokenizer.plain_bytes(), {}
        )
    server = servers.mlflow_server(home, servers.free_port())
    with servers.running([server]), dg.DagsterInstance.ephemeral() as instance:
        world = World(home, server.url, instance)
        for size, dataset in (("gpt2", "books"), ("gpt2", "openwebtext"), ("gpt2-medium", "books")):
            world.baseline(size, dataset)
        world.finetuned = world.finetune(GPT(small).init_weights(2).eval(), seed=2)
        yield world


def test_a_training_is_found_by_its_size_and_data_before_it_was_evaluated(world):
    config = TrainingConfig(
        init_from="scratch", n_layer=1, n_head=2, n_embd=16, block_size=64, device="cpu"
    )
    with training_job(world.home, world.client, config, "books", "1", TAGS) as job:
        run = world.client.get_run(job.mlflow_run_id)
    world.client.delete_run(run.info.run_id)
    assert run.data.tags["model_size"] == in_millions(int(run.data.metrics["parameters"]))
    assert run.data.tags["data_version/books"] == run.data.tags["data_version"]
    (read,) = run.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("books", run.data.tags["data_version"])


def test_mlflow_knows_the_datasets_that_a_run_was_measured_on(world):
    baseline = world.run_of("gpt2")
    for run in (baseline, world.client.get_run(world.finetuned)):
        read = {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs}
        assert read == {(name, run.data.tags[f"data_version/{name}"]) for name in DATASETS}


def search(world, query):
    runs = world.client.search_runs([experiment_id(world.client)], query)
    return sorted(run.data.tags["mlflow.runName"] for run in runs)


def test_baselines_and_finetunes_have_the_same_keys(world):
    runs = {
        run.info.run_name: run.data
        for run in world.client.search_runs([experiment_id(world.client)])
    }
    baseline, finetune = runs["gpt2 as released"], world.client.get_run(world.finetuned).data
    names = ("val_loss", "train_loss", "perplexity", "bits_per_byte", "tokens", "seconds")
    shared = {f"{name}/{dataset}" for name in names for dataset in DATASETS} | {
        "parameters",
        BY_PROTOCOL,
    }
    tags = {"kind", "model_size", "init_from", "git_commit", "dagster_run_id"}
    tags |= {f"data_version/{dataset}" for dataset in DATASETS}
    params = {"init_from", "tokenizer", "vocab_size"}
    for run in (baseline, finetune):
        assert shared <= set(run.metrics)
        assert tags <= set(run.tags)
        assert params <= set(run.params)
    assert baseline.tags["data_version/books"] == finetune.tags["data_version/books"]
    assert (finetune.tags["dataset"], finetune.tags["data_version"]) == (
        "books",
        finetune.tags["data_version/books"],
    )


def test_mlflows_search_finds_them(world):
    finetune = world.client.get_run(world.finetuned).info.run_name
    baselines = ["gpt2 as released", "gpt2-medium as released"]
    version = world.client.get_run(world.finetuned).data.tags["data_version/books"]
    assert search(world, "metrics.`val_loss/books` < 100") == sorted([*baselines, finetune])
    assert search(world, "metrics.`val_loss/books` < 0.01") == []
    assert search(world, "metrics.`bits_per_byte/openwebtext` > 0") == sorted(
        [baselines[0], finetune]
    )
    assert search(world, "tags.model_size = 'gpt2'") == sorted([baselines[0], finetune])
    assert search(world, "tags.kind = 'baseline'") == baselines
    assert search(world, f"tags.`data_version/books` = '{version}'") == sorted(
        [*baselines, finetune]
    )
    assert search(world, "params.tokenizer = 'bytes' and metrics.parameters > 1000") == sorted(
        [*baselines, finetune]
    )


def test_the_leaderboard_has_every_model_once_the_best_first(world):
    board = read_leaderboard(world.client)
    kinds = [entry.kind for entry in board.entries]
    assert board.datasets == ["books", "openwebtext"]
    assert [kinds.count(kind) for kind in ("baseline", "finetune", "published")] == [2, 1, 4]
    books = [
        entry.value("bits_per_byte", "books")
        for entry in board.entries
        if entry.kind != "published"
    ]
    assert books == sorted(books)
    models = [entry.model for entry in board.entries]
    # what was published of a model stands below it, the rest last
    for size in ("gpt2", "gpt2-medium"):
        assert models.index(f"{size} as published") == models.index(f"{size} as released") + 1
    assert models[-2:] == ["gpt2-large as published", "gpt2-xl as published"]
    rows = {row["model"]: row for row in board.rows()}
    assert rows["gpt2-medium as released"]["val_loss/openwebtext"] == "-"
    assert rows["gpt2 as released"]["version"] == "-"
    measured = world.client.get_run(world.finetuned).data.metrics
    finetune = next(entry for entry in board.entries if entry.kind == "finetune")
    assert rows[finetune.model]["bits_per_byte/books"] == f"{measured['bits_per_byte/books']:.4f}"
    assert rows[finetune.model]["memorization"] == f"{measured['memorization/books']:.1%}"


def test_what_was_published_stands_beside_what_was_measured_in_the_same_way(world):
    rows = {row["model"]: row for row in read_leaderboard(world.client).rows()}
    metrics = world.run_of("gpt2").data.metrics
    published = rows["gpt2 as published"]
    assert (published[BY_PROTOCOL], published["val_loss/openwebtext"]) == ("3.1200", "-")
    ours = rows["gpt2 as released"]
    assert ours[BY_PROTOCOL] == f"{metrics[BY_PROTOCOL]:.4f}"
    assert ours["val_loss/openwebtext"] == f"{metrics['val_loss/openwebtext']:.4f}"
    assert LIKE_WITH_LIKE in read_leaderboard(world.client).markdown()


def test_benchmarks_are_columns_once_they_are_measured(world):
    def rows():
        return {row["model"]: row for row in read_leaderboard(world.client).rows()}

    assert not [name for name in next(iter(rows().values())) if name in SHOWN_BENCHMARKS]
    baseline = world.run_of("gpt2").info.run_id
    for run_id, accuracy in ((baseline, 0.33), (world.finetuned, 0.25)):
        log_final(
            world.client,
            run_id,
            {"acc/lambada_openai": accuracy, "perplexity_stderr/lambada_openai": 1.0},
            0,
        )
        world.client.set_tag(run_id, "data_version/lambada_openai", f"of {accuracy}")
    shown = rows()
    assert [name for name in shown["gpt2 as released"] if name in SHOWN_BENCHMARKS] == [
        "acc/lambada_openai"
    ]
    assert shown["gpt2 as published"]["acc/lambada_openai"] == "0.3256"
    assert shown["gpt2-medium as published"]["acc/lambada_openai"] == "-"
    # on other data than the newest run's
    assert shown["gpt2 as released"]["acc/lambada_openai"] == f"0.3300{EARLIER}"
    assert shown["gpt2-medium as released"]["acc/lambada_openai"] == "-"


def test_a_model_with_benchmarks_only_is_in_the_table():
    board = with_published(
        Leaderboard(
            [Entry("gpt2 as released", "baseline", 1e8, {"acc_norm/hellaswag": 0.3}, size="gpt2")],
            [],
        )
    )
    assert [row["acc_norm/hellaswag"] for row in board.rows()] == ["0.3000", "0.3114"]
    # nothing of the others
    assert [row["model"] for row in board.rows()] == ["gpt2 as released", "gpt2 as published"]


def test_the_asset_shows_the_board_in_dagster_in_mlflow_and_as_files(world):
    metadata = world.materialize(leaderboard)
    # one run, not one each time
    assert world.materialize(leaderboard)["mlflow_run"] == metadata["mlflow_run"]
    run_id = metadata["mlflow_run"].value.rpartition("/")[2]
    assert world.client.get_run(run_id).info.run_name == "leaderboard"
    assert {file.path for file in world.client.list_artifacts(run_id)} == {
        "leaderboard.md",
        "leaderboard.png",
    }
    text = (world.home.leaderboard / "leaderboard.md").read_text()
    assert metadata["table"].value == text
    assert "| gpt2 as released | baseline |" in text
    assert metadata["picture"].value.startswith("![loss against parameters](data:image/png;base64,")
    assert (world.home.leaderboard / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_the_same_table(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.url)
    answer = CliRunner().invoke(main, ["leaderboard"], env={"COLUMNS": "120"})
    assert answer.exit_code == 0, answer.output
    board = read_leaderboard(world.client)
    shown = [row for part in board.parts() for row in part]
    for row in shown:
        assert any(
            all(value in line for value in row.values()) for line in answer.output.splitlines()
        ), row
    for whole in board.rows():  # in one part or another
        mine = [row for row in shown if row["model"] == whole["model"]]
        values = {name: value for row in mine for name, value in row.items()}
        assert {
            name: value for name, value in whole.items() if name != "kind" and value != "-"
        }.items() <= values.items()


def test_the_table_tells_which_version_a_run_became_and_which_is_served(world):
    home, client = world.home, world.client
    one, two = (publish(client, home.finetuned, world.finetuned, {}, "a test") for _ in range(2))
    client.set_registered_model_alias(MODEL_NAME, CHAMPION, two)
    try:
        (row,) = [row for row in read_leaderboard(client).rows() if row["kind"] == "finetune"]
    finally:
        client.delete_registered_model(MODEL_NAME)
    assert int(two) > int(one)
    assert row["version"] == f"{two} challenger champion"


def test_what_was_measured_on_other_data_is_marked(world):
    changed = {**DOCUMENTS, "val": [("b", "an answer that came too late is no answer. " * 30)]}
    world.write_bins(changed)
    world.baseline("gpt2-medium", "books")
    try:
        rows = {row["model"]: row for row in read_leaderboard(world.client).rows()}
    finally:
        world.write_bins()
    newest = next(row for name, row in rows.items() if name.startswith("gpt2-books"))
    assert rows["gpt2-medium as released"]["val_loss/books"].endswith(EARLIER)
    assert not newest["val_loss/books"].endswith(EARLIER)


def test_an_empty_leaderboard_says_so(tmp_path):
    assert Leaderboard([], []).markdown() == "Nothing was measured yet."
    assert loss_against_parameters(Leaderboard([], [])).startswith(b"\x89PNG")


def test_parameters_are_those_that_people_name_the_sizes_by():
    assert [round(config.parameter_count / 1e6) for config in GPT2_SIZES.values()] == [
        124,
        355,
        774,
        1558,
    ]


def test_a_run_from_before_the_books_were_renamed_stands_beside_the_others(registry):
    tags = {"kind": "finetune", "data_version/sre": "0123"}
    source = dict(name="sre", digest="0123", source="s")
    run_id = start_run(registry, "an old run", {}, tags, source)
    log_final(registry, run_id, {"val_loss/sre": 4.0, "bits_per_byte/sre": 2.0}, step=1)
    registry.set_terminated(run_id, "FINISHED")
    (entry,) = (one for one in read_leaderboard(registry).entries if one.run_id == run_id)
    assert entry.value("bits_per_byte", "books") == 2.0
    assert entry.data_versions["books"] == "0123"
    assert "sre" not in read_leaderboard(registry).datasets


@pytest.mark.parametrize("names", [("sre", "books"), ("books", "sre")])
def test_a_baselines_run_that_has_both_names_counts_by_the_new_one(registry, names):
    tags = {"kind": "baseline", "data_version/sre": "old", "data_version/books": "new"}
    run_id = start_run(registry, "both", {}, tags, dict(name="books", digest="new", source="s"))
    losses = {"sre": 4.0, "books": 1.0}
    log_final(registry, run_id, {f"val_loss/{name}": losses[name] for name in names}, step=1)
    registry.set_terminated(run_id, "FINISHED")
    (entry,) = (one for one in read_leaderboard(registry).entries if one.run_id == run_id)
    assert entry.value("val_loss", "books") == 1.0
    assert entry.data_versions == {"books": "new"}


def test_the_picture_has_a_panel_for_each_dataset():
    from matplotlib.image import imread

    entries = [
        Entry("one", "finetune", 1e6, {"val_loss/books": 3.0}),
        Entry("two", "baseline", 1e8, {"val_loss/books": 2}),
    ]
    boards = [Leaderboard(entries, names) for names in (["books"], ["books", "toy"])]
    one, two = (imread(io.BytesIO(loss_against_parameters(board))) for board in boards)
    assert two.shape[1] - one.shape[1] == round(4.2 * 110)


def test_the_leaderboard_follows_what_is_measured_and_waits_for_nothing_else():
    @dg.asset
    def evaluation():
        pass

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["gpt2", "gpt2-xl"]))
    def gpt2_baseline():
        pass

    @dg.asset(deps=[evaluation])
    def champion():
        pass

    @dg.asset(deps=[evaluation, gpt2_baseline, champion], automation_condition=ON_MEASURED)
    def leaderboard():
        pass

    defs = dg.Definitions([evaluation, gpt2_baseline, champion, leaderboard])
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.evaluate_automation_conditions(defs, instance)
        assert result.total_requested == 0
        for make in (
            {"assets": [evaluation]},
            {"assets": [gpt2_baseline], "partition_key": "gpt2"},
        ):
            dg.materialize(make.pop("assets"), instance=instance, **make)
            result = dg.evaluate_automation_conditions(defs, instance, cursor=result.cursor)
            assert result.total_requested == 1
            result = dg.evaluate_automation_conditions(defs, instance, cursor=result.cursor)
            assert result.total_requested == 0
