"""Lineage both ways, over versions in a real registry and an archive that changes."""

import dataclasses
import json
import shutil
import threading
import time

import pytest
from click.testing import CliRunner

from devopsgpt_model.atomic import file_sha256
from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.datasets.books import DatasetError, origin_of, split_chapters, write_books
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.pretrained import PRETRAINED
from devopsgpt_pipeline.registry.version_lineage import NoSuchModel, all_lineages, lineage_of
from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.text.corpus import clean_book
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME
from devopsgpt_pipeline.tracking.versions import publish
from devopsgpt_pipeline.training.lineage import LINEAGE_FILE, as_text, completed, initial_weights
from devopsgpt_pipeline.training.prepare import training_job

TAGS = {"kind": "finetune", "dagster_run_id": "dagster-1", "git_commit": "c0ffee"}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def corpus(book_site, book, fetcher, home):
    """Scrape, clean and encode the local book as it is now; returns the token bins' meta."""

    def make():
        archive = ChapterArchive(home.chapters / book.name)
        assert scrape_book(book, fetcher, archive).accepted
        clean_book(archive.folder, home.text / book.name, book)
        documents = split_chapters(home.text, [book.name], 0.3)
        origin = origin_of(home.text, [book], documents)
        return write_books(home.tokens / "books", documents, Tokenizer.plain_bytes(), origin)

    return make


@pytest.fixture
def register(registry, home, checkpoint_folder):
    """Register a version as the assets do: a prepared job's lineage, carried by the checkpoint."""

    def make(**settings):
        config = TrainingConfig(device="cpu", **settings)
        with training_job(home, registry, config, "books", "1", TAGS) as job:
            shutil.copy(job.out / LINEAGE_FILE, checkpoint_folder)
        lineage = completed(checkpoint_folder, {"registered_model": "dagster-2"})
        documents = {LINEAGE_FILE: as_text(lineage)}
        return publish(
            registry, checkpoint_folder, job.mlflow_run_id, {"val_loss": "1.5"}, "a test", documents
        )

    return make


def test_a_run_that_begins_late_waits_until_the_other_has_left_the_folder(registry, home, corpus):
    corpus()
    config, begun, seen = TrainingConfig(device="cpu", seed=91), threading.Event(), []

    def late():
        begun.set()
        with training_job(home, registry, config, "books", "1", TAGS) as job:
            seen.append((job.out / "run.json").exists())

    with training_job(home, registry, config, "books", "1", TAGS) as first:
        other = threading.Thread(target=late)
        other.start()
        assert begun.wait(5)
        time.sleep(0.5)
        assert seen == []
        shutil.rmtree(first.out)  # as a run does that has kept its checkpoint
    other.join(20)
    assert seen == [True]


@pytest.fixture
def lineage(registry, home):
    def invoke(*arguments):
        return CliRunner().invoke(
            main, ["lineage", *arguments], env={"DEVOPSGPT_HOME": str(home.path), "COLUMNS": "160"}
        )

    return invoke


def edit(book_site, slug):
    page = book_site.chapter(slug)
    page.inside = page.inside.replace("The lamp first was seen 0 times", "Nobody saw the lamp")


def test_a_version_leads_to_chapters_hashes_settings_code_and_runs(
    registry, corpus, register, home, book
):
    meta, version = corpus(), register(seed=11)
    made_of = lineage_of(registry, version).made_of
    archived = {row.slug: row for row in ChapterArchive(home.chapters / book.name).rows()}
    assert {one["slug"]: one["content_sha256"] for one in made_of["chapters"]} == {
        slug: row.content_sha256 for slug, row in archived.items()
    }
    assert {one["url"] for one in made_of["chapters"]} == {row.url for row in archived.values()}
    assert {one["split"] for one in made_of["chapters"]} == {"train", "val"}
    assert made_of["books"][0]["licence"] == book.licence
    assert made_of["data"]["data_version"] == meta.data_version
    assert made_of["data"]["val_sha256"] == meta.splits["val"].sha256
    assert made_of["settings"]["seed"] == 11
    assert made_of["initial_weights"] == {"name": "scratch", "source": "scratch"}
    assert made_of["code"] == {"version": "1", "git_commit": "c0ffee"}
    assert made_of["runs"]["dagster"] == {
        "finetuned_checkpoint": "dagster-1",
        "registered_model": "dagster-2",
    }
    assert registry.get_run(made_of["runs"]["mlflow"]).data.params["seed"] == "11"


def test_what_a_dataset_was_made_of_is_no_part_of_its_version(corpus, home):
    meta = corpus()
    assert len(TokenBins.open(home.tokens / "books").meta.origin["chapters"]) == 6
    assert dataclasses.replace(meta, origin={}).data_version == meta.data_version


def test_a_text_that_changed_while_bins_were_made_is_noticed(corpus, home, book):
    corpus()
    documents = split_chapters(home.text, [book.name], 0.3)
    documents["train"][0] = (documents["train"][0][0], "another text")
    with pytest.raises(DatasetError, match="changed meanwhile"):
        origin_of(home.text, [book], documents)


def test_initial_weights_are_named_with_hash_and_revision(checkpoint_folder, tmp_path, registry):
    digest = file_sha256(checkpoint_folder / "model.safetensors")
    facts = initial_weights("gpt2", checkpoint_folder)
    assert facts["sha256"] == digest
    assert facts["revision"] == PRETRAINED["gpt2"].revision
    shutil.copytree(checkpoint_folder, tmp_path / "champion-7" / "model")
    assert initial_weights("champion", tmp_path / "champion-7" / "model") == {
        "name": "champion",
        "sha256": digest,
        "version": "7",
    }


def test_no_login_of_an_address_is_recorded(corpus, home, book, registry, register):
    corpus()
    path = home.tokens / "books" / "meta.json"
    path.write_text(path.read_text().replace("http://", "http://reader:secret@"))
    text = json.dumps(lineage_of(registry, register()).made_of)
    assert "secret" not in text
    assert book.contents_url in text


def test_a_chapter_leads_to_the_versions_that_learned_it(
    registry, corpus, register, lineage, book_site, home, book
):
    corpus()
    one = register()
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    before = ChapterArchive(home.chapters / book.name).rows()
    edit(book_site, "on-the-lamp")
    corpus()
    two = register()
    rows = json.loads(lineage("--chapter", "local-book/on-the-lamp", "--json").output)
    assert [(row["version"], row["aliases"], row["archive"]) for row in rows] == [
        (two, "challenger", "the same"),
        (one, "champion", "differs"),
    ]
    was = next(row for row in before if row.slug == "on-the-lamp")
    assert rows[1]["content_sha256"] == was.content_sha256 != rows[0]["content_sha256"]
    shown = lineage("--chapter", "local-book/on-the-lamp").output
    assert "differs" in shown
    assert was.content_sha256[:12] in shown


def test_a_held_out_chapter_is_told_as_not_learned(corpus, register, lineage):
    meta = corpus()
    register()
    held_out = meta.splits["val"].documents[0][0]
    (row,) = json.loads(lineage("--chapter", held_out, "--json").output)
    assert row["learned"] == "no, held out"


def test_a_page_that_changed_around_the_same_text_is_told_apart(
    corpus, register, lineage, home, book
):
    corpus()
    register()
    manifest = home.chapters / book.name / "manifest.json"
    rows = json.loads(manifest.read_text())
    rows["chapters"][0]["content_sha256"] = "f" * 64
    manifest.write_text(json.dumps(rows))
    (row,) = json.loads(
        lineage("--chapter", f"local-book/{rows['chapters'][0]['slug']}", "--json").output
    )
    assert row["archive"] == "another page, the same text"
    shutil.rmtree(home.chapters / book.name)
    (row,) = json.loads(
        lineage("--chapter", f"local-book/{rows['chapters'][0]['slug']}", "--json").output
    )
    assert row["archive"] == "has it no more"


def test_lineage_prints_the_champion_by_default_and_an_alias_or_a_number_on_demand(
    registry, corpus, register, lineage
):
    corpus()
    one, two = register(seed=1), register(seed=2)
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    registry.set_model_version_tag(MODEL_NAME, one, "decision_reason", "better than its start")
    shown = lineage().output
    assert shown.startswith(f"version {one}, champion\n")
    for told in (
        "seed=1",
        "c0ffee",
        "dagster-2",
        "better than its start",
        "local-book/on-the-lamp",
        "train",
    ):
        assert told in shown
    assert lineage("challenger").output.startswith(f"version {two}, challenger\n")
    assert json.loads(lineage(two, "--json").output)["made_of"]["settings"]["seed"] == 2


def test_a_version_from_before_lineage_was_kept_shows_its_tags(
    registry, corpus, register, lineage, checkpoint_folder
):
    corpus()
    run_id = lineage_of(registry, register()).made_of["runs"]["mlflow"]
    (checkpoint_folder / LINEAGE_FILE).unlink()
    old = publish(registry, checkpoint_folder, run_id, {"data_version": "abc"}, "as it was before")
    assert lineage_of(registry, old).made_of is None
    shown = lineage(old).output
    assert "from before lineage was kept" in shown
    assert "data_version" in shown
    assert [one.made_of is None for one in all_lineages(registry)] == [True, False]


def test_an_unknown_version_or_chapter_is_told(registry, corpus, register, lineage):
    corpus()
    one = register()
    with pytest.raises(
        NoSuchModel, match=f"no version or alias '77'; its aliases are challenger .version {one}."
    ):
        lineage_of(registry, "77")
    answer = lineage("no-such-alias")
    assert (answer.exit_code, "no version or alias 'no-such-alias'" in answer.output) == (1, True)
    answer = lineage("--chapter", "local-book/on-the-moon")
    assert answer.exit_code == 1
    assert "no version and no archive knows 'local-book/on-the-moon'" in answer.output
    assert "such as local-book/on-" in answer.output


def test_a_lineage_damaged_in_the_registry_is_noticed(registry, corpus, register, mlflow_server):
    corpus()
    version = register()
    model_id = registry.get_model_version(MODEL_NAME, version).source.rpartition("/")[2]
    stored = next(
        (mlflow_server.log.parent.parent / "mlflow" / "artifacts").rglob(
            f"{model_id}/**/{LINEAGE_FILE}"
        )
    )
    stored.write_text(stored.read_text().replace("c0ffee", "decaff"))
    with pytest.raises(ValueError, match=r"model/lineage\.json is missing or damaged"):
        lineage_of(registry, version)


def test_a_checkpoint_without_lineage_is_not_registered(tmp_path, tiny_gpt):
    save_checkpoint(tmp_path / "plain", tiny_gpt, Tokenizer.plain_bytes(), {})
    with pytest.raises(ValueError, match="materialize `finetuned_checkpoint` again"):
        completed(tmp_path / "plain", {})
