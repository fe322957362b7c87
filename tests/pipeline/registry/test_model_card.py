"""The model card, as Hugging Face's own parser reads it."""

import dataclasses
import re

import pytest
from huggingface_hub import ModelCard

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.config import TrainingConfig
from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.evaluation.comparison import Comparison
from devopsgpt_pipeline.evaluation.measure import measure
from devopsgpt_pipeline.registry.licence import licence_text
from devopsgpt_pipeline.registry.model_card import CARD_FILE, model_card
from devopsgpt_pipeline.tracking.client import MODEL_NAME
from devopsgpt_pipeline.tracking.runs import start_run
from devopsgpt_pipeline.tracking.versions import fetch_document, fetch_version, publish
from devopsgpt_pipeline.training.lineage import lineage_of_training

RUN_URL = "http://127.0.0.1:5000/#/experiments/1/runs/abc"
DOCUMENTS = {
    "train": [("a", "a steady service answers. " * 40)],
    "val": [("b", "a slow answer is an answer. " * 20)],
}
BOOK = {
    "name": "sre-book",
    "title": "Site Reliability Engineering",
    "licence": "CC BY-NC-ND 4.0",
    "attribution": "Edited by Betsy Beyer and others",
    "contents_url": "https://sre.google/sre-book/table-of-contents/",
    "text_version": "abc",
}
CHAPTERS = [
    {"book": "sre-book", "slug": slug, "split": split}
    for slug, split in (("a", "train"), ("b", "val"))
]


@pytest.fixture
def comparison(checkpoint_folder, tmp_path):
    """What was measured on two datasets, start and fine-tuned being the same tiny model."""
    folders = [tmp_path / "tokens" / name for name in ("books", "shakespeare")]
    pairs = []
    for folder in folders:
        write_token_bins(folder, folder.name, Tokenizer.plain_bytes(), DOCUMENTS)
        one = measure(
            "finetuned", load_checkpoint(checkpoint_folder), TokenBins.open(folder), batches=0
        )
        pairs.append((dataclasses.replace(one, val_loss=one.val_loss + 1).as_json(), one.as_json()))
    samples = [("An alert should", " wake", " be acted on")]
    return Comparison("f" * 64, "0123", "books", {}, {}, samples, 0.015625, 1_100_000, pairs)


@pytest.fixture
def lineage(comparison, checkpoint_folder, tmp_path):
    origin = {"books": [BOOK], "chapters": CHAPTERS}
    meta = write_token_bins(
        tmp_path / "bins", "books", Tokenizer.plain_bytes(), DOCUMENTS, origin=origin
    )
    runs = {"mlflow": "1", "dagster": {}}
    return lineage_of_training(
        meta, TrainingConfig(init_from="gpt2"), checkpoint_folder, {"version": "1"}, runs
    )


def test_the_card_is_what_the_hub_reads(lineage, comparison):
    card = ModelCard(model_card(lineage, comparison, 1024, RUN_URL))
    data = card.data
    assert (data.license, data.language, data.pipeline_tag) == (
        "cc-by-nc-nd-4.0",
        "en",
        "text-generation",
    )
    assert data.base_model == "openai-community/gpt2"
    assert data.datasets is None, "the hub has no such dataset"
    assert data.library_name == "transformers"
    assert data.model_name == "devopsgpt"
    for heading in ("Data", "Results", "Training", "Limits", "How to load it", "Samples"):
        assert f"\n## {heading}\n" in card.text
    for told in (
        "not settled",
        "Betsy Beyer",
        "| 1 | 1 | CC BY-NC-ND 4.0 |",
        "AutoModelForCausalLM",
        "vllm serve",
    ):
        assert told in card.text


def test_every_result_is_the_evaluations(lineage, comparison):
    card = ModelCard(model_card(lineage, comparison, 1024, RUN_URL))
    results = {
        (one.dataset_type, one.metric_type): one.metric_value for one in card.data.eval_results
    }
    measured = {pair[1].dataset: pair[1] for pair in comparison.measurements()}
    expected = {
        (name, metric): getattr(one, metric)
        for name, one in measured.items()
        for metric in ("val_loss", "perplexity", "bits_per_byte")
    }
    assert results == expected | {("books", "memorization"): comparison.memorization}
    assert {one.dataset_revision for one in card.data.eval_results} == {
        one.data_version for one in measured.values()
    }
    before, after = comparison.measurements()[0]
    assert f"| loss (nats/token) | {before.val_loss:.4f} | {after.val_loss:.4f} |" in card.text
    assert "1.6% of the sampled" in re.sub(r"\s+", " ", card.text)


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["MIT", "MIT"], ("mit", None)),
        (["MIT", "CC BY-NC-ND 4.0"], ("other", "CC BY-NC-ND 4.0 and MIT")),
        (["a licence of one's own"], ("other", "a licence of one's own")),
        ([], ("other", "that of the data")),
    ],
)
def test_the_licence_is_the_datas(lineage, comparison, licences, expected):
    lineage["books"] = [BOOK | {"licence": licence} for licence in licences]
    card = ModelCard(model_card(lineage, comparison, 1024, RUN_URL))
    assert (card.data.license, card.data.get("license_name")) == expected
    assert ("not settled" in card.text) is ("CC BY-NC-ND 4.0" in licences)


def test_a_model_from_scratch_has_no_base_model(lineage, comparison):
    lineage["initial_weights"] = {"name": "scratch"}
    card = ModelCard(model_card(lineage, comparison, 256, RUN_URL))
    assert card.data.base_model is None
    assert "trained from random weights" in card.text


def test_the_card_is_part_of_the_version_and_verified_with_it(
    registry, lineage, comparison, checkpoint_folder, tmp_path, mlflow_server
):
    dataset = {"name": "books", "digest": "abc", "source": "tokens/books"}
    run_id = start_run(registry, "scratch-books", {}, {"kind": "finetune"}, dataset)
    text = model_card(lineage, comparison, 1024, RUN_URL)
    with_card = publish(registry, checkpoint_folder, run_id, {}, "with a card", {CARD_FILE: text})
    without = publish(registry, checkpoint_folder, run_id, {}, "as it was before")
    folder = fetch_version(registry, with_card, tmp_path / "fetched")
    assert ModelCard.load(folder / CARD_FILE).data.license == "cc-by-nc-nd-4.0"
    assert fetch_document(registry, without, CARD_FILE) is None
    for version in (with_card, without):
        assert load_checkpoint(fetch_version(registry, version, tmp_path / version)).training == {
            "step": 1
        }
    model_id = registry.get_model_version(MODEL_NAME, with_card).source.rpartition("/")[2]
    # other tests' versions lie there too
    artifacts = mlflow_server.log.parent.parent / "mlflow" / "artifacts"
    (stored,) = artifacts.rglob(f"{model_id}/**/model/{CARD_FILE}")
    stored.write_text(text.replace("1.6%", "0.0%"))
    with pytest.raises(ValueError, match=r"model/README\.md is missing or damaged"):
        fetch_version(registry, with_card, tmp_path / "again")


def test_the_card_links_the_run_and_shows_its_losses(lineage, comparison):
    text = model_card(lineage, comparison, 1024, RUN_URL, curve=True)
    assert f"[The run in MLflow]({RUN_URL})" in text
    assert "](loss_curve.png)" in text
    assert "loss_curve.png" not in model_card(lineage, comparison, 1024, RUN_URL)


@pytest.mark.parametrize(
    ("weights", "base_model"),
    [
        ({"name": "scratch"}, None),
        ({"name": "champion", "version": "3"}, None),
        ({"name": "owner/name@abc"}, "owner/name"),
        ({"name": "distilbert/distilgpt2", "sha256": "0"}, "distilbert/distilgpt2"),
    ],
)
def test_the_card_names_the_hubs_model_that_was_fine_tuned(
    lineage, comparison, weights, base_model
):
    card = ModelCard(model_card(lineage | {"initial_weights": weights}, comparison, 8, RUN_URL))
    assert card.data.base_model == base_model


def test_data_of_the_hub_is_named_as_there(lineage, comparison):
    data = lineage["data"] | {"dataset": "shakespeare"}
    card = ModelCard(model_card(lineage | {"data": data, "books": []}, comparison, 8, RUN_URL))
    assert card.data.datasets == ["karpathy/tiny_shakespeare"]


def test_the_licence_names_what_the_weights_were_made_of(lineage):
    text = licence_text(lineage)
    assert "openai-community/gpt2 (MIT, by OpenAI)" in text
    assert BOOK["contents_url"] in text
    assert f"{BOOK['licence']}. {BOOK['attribution']}" in text
    assert "not settled" in text, "a licence without derivatives"
    assert "random" in licence_text(lineage | {"initial_weights": {"name": "scratch"}})
