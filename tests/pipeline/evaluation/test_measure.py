import dataclasses
import math

import dagster as dg
import pytest

from devopsgpt_model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from devopsgpt_model.config import in_millions
from devopsgpt_model.evaluate import mean_loss
from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.defs.baselines import agreement, build_gpt2_baseline
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.evaluation.measure import Measurement, measure
from devopsgpt_pipeline.evaluation.published import LOSSES
from devopsgpt_pipeline.home import Home

DOCUMENTS = {
    "train": [("a", "a steady service answers. " * 120)],
    "val": [("b", "a slow answer is an answer. " * 20)],
}


@pytest.fixture
def bins(tmp_path):
    write_token_bins(
        tmp_path / "tokens" / "openwebtext", "openwebtext", Tokenizer.plain_bytes(), DOCUMENTS
    )
    return TokenBins.open(tmp_path / "tokens" / "openwebtext")


def test_a_full_pass_and_random_batches_agree(checkpoint_folder, bins):
    measured = measure("tiny", load_checkpoint(checkpoint_folder), bins, batches=50)
    model = load_checkpoint(checkpoint_folder).model
    assert measured.val_loss == mean_loss(model, bins.tokens("val"))
    train, val = bins.tokens("train"), bins.tokens("val")
    assert (
        measured.train_loss
        == mean_loss(model, train, every=len(train) // len(val))
        != mean_loss(model, train)
    )
    assert measured.train_loss == pytest.approx(mean_loss(model, train), abs=0.1)
    assert measured.nanogpt_val_loss == pytest.approx(measured.val_loss, abs=0.1)
    assert measured.perplexity == pytest.approx(math.exp(measured.val_loss))
    assert measured.tokens == len(bins.tokens("val")) - 1


def test_a_model_with_another_vocabulary_is_measured_on_the_same_text(
    tiny_gpt, bins, bpe_tokenizer
):
    from devopsgpt_model.gpt import GPT

    config = dataclasses.replace(tiny_gpt.config, vocab_size=bpe_tokenizer.vocab_size)
    other = Checkpoint(GPT(config).init_weights(1).eval(), bpe_tokenizer, {})
    measured = measure("bpe", other, bins, batches=0)
    assert measured.tokens < len(bins.tokens("val")) - 1
    assert measured.bits_per_byte > 1
    assert math.isnan(measured.nanogpt_val_loss)
    assert "nanogpt_val_loss/openwebtext" not in measured.metrics()


@pytest.mark.parametrize(
    ("short", "told"), [("val", "and val has 45"), ("train", "and train has 45")]
)
def test_a_split_shorter_than_a_window_leaves_the_protocol_out_and_says_so(
    checkpoint_folder, tmp_path, short, told
):
    documents = {**DOCUMENTS, short: [("a", "a slow answer is an answer, a late one isn't")]}
    write_token_bins(tmp_path / "bins", "openwebtext", Tokenizer.plain_bytes(), documents)
    bins = TokenBins.open(tmp_path / "bins")
    measured = measure("gpt2", load_checkpoint(checkpoint_folder), bins, batches=3)
    assert (
        measured.left_out == f"nanoGPT's protocol was left out, its windows take 65 tokens {told}"
    )
    assert math.isnan(measured.nanogpt_val_loss)
    assert math.isnan(measured.nanogpt_train_loss)
    assert measured.val_loss > 0
    assert told in agreement(measured).description
    assert measure("gpt2", load_checkpoint(checkpoint_folder), bins, batches=0).left_out.endswith(
        "0 batches were asked for"
    )


MEASURED = Measurement(
    "gpt2", 124_439_808, "openwebtext", "v", 3.125, 3.1, 22.7, 0.99, 4_000_000, 9.0, 3.12, 3.11
)


def test_values_as_published_pass_and_others_warn():
    assert agreement(MEASURED).passed
    off = agreement(dataclasses.replace(MEASURED, nanogpt_val_loss=3.16))
    assert not off.passed
    assert off.severity == dg.AssetCheckSeverity.WARN
    assert (
        "train/val loss 3.110/3.160, published 3.11/3.12, by at most 0.040 apart" in off.description
    )
    assert (
        "nothing is published"
        in agreement(dataclasses.replace(MEASURED, dataset="books", nanogpt_val_loss=9)).description
    )
    left_out = dataclasses.replace(
        MEASURED, nanogpt_val_loss=math.nan, left_out="0 batches were asked for"
    )
    told = "nothing to compare with the published 3.11/3.12: 0 batches were asked for"
    assert agreement(left_out).description == told
    assert left_out.row()["published"] == "-"  # 3.12 is by the protocol, the full pass is not


def test_a_row_is_the_original_tables():
    row = MEASURED.row()
    assert [row[key] for key in ("model", "params", "train loss", "val loss", "published")] == [
        *("gpt2", "124M", 3.11, 3.12, "3.11 / 3.12"),
    ]
    assert sorted(LOSSES) == ["gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl"]
    assert in_millions(1_100_000) == "1.1M"


def test_baselines_of_two_datasets_are_one_row_in_mlflow(
    registry, mlflow_server, tiny_gpt, tmp_path, bins
):
    home = Home(tmp_path)
    write_token_bins(tmp_path / "tokens" / "books", "books", Tokenizer.plain_bytes(), DOCUMENTS)
    save_checkpoint(home.pretrained / "gpt2-medium", tiny_gpt, Tokenizer.plain_bytes(), {})
    asset = build_gpt2_baseline(["books", "openwebtext"])
    resources = {
        "home": HomeResource(path=str(tmp_path)),
        "mlflow": MlflowResource(tracking_uri=mlflow_server.url, ui_url=mlflow_server.url),
    }
    config = {"ops": {"gpt2_baseline": {"config": {"batches": 2}}}}
    runs = []
    with dg.DagsterInstance.ephemeral() as instance:
        for dataset in ("books", "openwebtext"):
            key = dg.MultiPartitionKey({"model": "gpt2-medium", "dataset": dataset})
            result = dg.materialize(
                [asset],
                partition_key=key,
                resources=resources,
                run_config=config,
                instance=instance,
            )
            (event,) = result.asset_materializations_for_node("gpt2_baseline")
            runs.append(event.metadata["mlflow_run"].value.rpartition("/")[2])
            (check,) = result.get_asset_check_evaluations()
            # a tiny model is far from the published loss: a warning
            assert check.passed is (dataset == "books")
    assert runs[0] == runs[1]
    run = registry.get_run(runs[0])
    assert {"val_loss/books", "val_loss/openwebtext", "bits_per_byte/books", "parameters"} <= set(
        run.data.metrics
    )
    assert run.data.tags["model_size"] == "gpt2-medium"
    assert len(run.data.tags["data_version/openwebtext"]) == 16
