"""`devopsgpt evaluate`: baselines from a local hub, fine-tunes by folder, version and run."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import DEVOPSGPT, REPOSITORY

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.defs.evaluation import evaluation
from devopsgpt_pipeline.defs.resources import HomeResource, MlflowResource
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.pretrained import FILES, PRETRAINED
from devopsgpt_pipeline.hub.source import REPOSITORY as OPENWEBTEXT
from devopsgpt_pipeline.tracking.runs import baseline_run, start_run
from devopsgpt_pipeline.tracking.versions import publish
from pipeline.hub.local_hub import serving_hub

PLAIN = Tokenizer.plain_bytes()
# The stand-ins of the sizes cannot have OpenAI's hashes, which test_pretrained tests; then the
# hub's own are checked.
WITHOUT_PINNED_HASHES = """
import dataclasses
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.hub.pretrained import PRETRAINED
for size, source in PRETRAINED.items():
    PRETRAINED[size] = dataclasses.replace(source, sha256="")
main()
"""
DOCUMENTS = {
    "train": [("a", "a steady service answers. " * 40)],
    "val": [("b", "a slow answer is an answer. " * 20)],
}


def evaluate(home, *arguments, program=DEVOPSGPT, **environment):
    """The command in a process of its own, as a person starts it: the hub's client reads
    HF_ENDPOINT at import."""
    settings = {
        "DEVOPSGPT_HOME": str(home),
        "COLUMNS": "200",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **environment,
    }
    command = [*program, "evaluate", *arguments]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.fixture
def hub(tmp_path, gpt2_tokenizer):
    """GPT-2 in four sizes, each a tiny network of random weights with GPT-2's vocabulary, and some
    OpenWebText."""
    repositories = {}
    for layers, (size, source) in enumerate(PRETRAINED.items(), 1):
        config = GPTConfig(
            vocab_size=gpt2_tokenizer.vocab_size, block_size=64, n_layer=layers, n_head=2, n_embd=16
        )
        folder = tmp_path / "hub" / size
        save_checkpoint(folder, GPT(config).init_weights(layers), gpt2_tokenizer, {})
        (folder / "training.json").unlink()
        repositories[source.repository] = folder
    shards = tmp_path / "hub" / "openwebtext"
    (shards / "plain_text").mkdir(parents=True)
    for number in range(2):
        texts = [
            f"Document {i} of shard {number} tells how a service was kept up. " * 20
            for i in range(30)
        ]
        pq.write_table(
            pa.table({"text": texts}), shards / f"plain_text/train-0000{number}-of-00002.parquet"
        )
    with serving_hub(repositories | {f"datasets/{OPENWEBTEXT}": shards}) as hub:
        yield hub


@pytest.mark.slow
def test_the_four_sizes_on_openwebtext_are_the_originals_table(
    hub, registry, mlflow_server, tmp_path
):
    answer = evaluate(
        tmp_path / "home", *PRETRAINED, "--dataset", "openwebtext", "--batches", "3",
        program=[sys.executable, "-c", WITHOUT_PINNED_HASHES],
        HF_ENDPOINT=hub.url, MLFLOW_TRACKING_URI=mlflow_server.url,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    for word in ("model", "params", "train loss", "val loss", "published", "bits_per_byte"):
        assert word in answer.stdout
    rows = [
        re.split(r"\s*│\s*", line.strip("│ "))
        for line in answer.stdout.splitlines()
        if line.startswith("│")
    ]
    assert [row[1] for row in rows] == list(PRETRAINED)
    assert [row[5] for row in rows] == ["3.11 / 3.12", "2.85 / 2.84", "2.66 / 2.67", "2.56 / 2.54"]
    # random weights know nothing: log(50,257) = 10.82 nats a token, far from what is published
    for row in rows:
        assert [float(loss) for loss in row[3:5]] == pytest.approx([10.82, 10.82], abs=0.1)
        warning = rf"warning: {row[1]} on openwebtext: train/val loss 10\.\d+/10\.\d+, published"
        assert re.search(warning, answer.stderr)
    for size in PRETRAINED:
        run = registry.get_run(baseline_run(registry, size, 0))
        assert run.data.metrics["val_loss/openwebtext"] == pytest.approx(10.82, abs=0.1)
        assert len(run.data.tags["data_version/openwebtext"]) == 16
    hub.asked.clear()
    again = evaluate(
        tmp_path / "home", "gpt2", "--dataset", "openwebtext", "--batches", "0",
        program=[sys.executable, "-c", WITHOUT_PINNED_HASHES],
        HF_ENDPOINT=hub.url, MLFLOW_TRACKING_URI=mlflow_server.url,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "warning" not in again.stderr  # without the protocol there is nothing to compare
    assert hub.asked == []


@pytest.mark.slow  # the hub's client tries for 23 s before it gives up
def test_without_a_network_it_is_told_what_to_fetch_and_where_to_put_it(
    mlflow_server, tmp_path, gpt2_tokenizer
):
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "MLFLOW_TRACKING_URI": mlflow_server.url}
    answer = evaluate(tmp_path, "gpt2", "--dataset", "openwebtext", "--documents", "100", **offline)
    assert answer.returncode == 1
    assert re.search(
        rf"put the parquet files of revision 79d93d786212\w+ into {tmp_path}", answer.stderr
    )
    write_token_bins(tmp_path / "tokens" / "openwebtext", "openwebtext", gpt2_tokenizer, DOCUMENTS)
    answer = evaluate(tmp_path, "gpt2-xl", "--dataset", "openwebtext", **offline)
    assert answer.returncode == 1
    assert (
        f"put {', '.join(FILES)} of openai-community/gpt2-xl at revision 15ea56dee5df"
        in answer.stderr
    )
    assert f"into {tmp_path / 'pretrained' / 'gpt2-xl'}" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.fixture
def finetune(tmp_path, registry, tiny_gpt):
    """A home with a fine-tuned checkpoint, the weights that it started from, its run, and the books
    it learned."""
    home = Home(tmp_path / "home").prepare()
    write_token_bins(home.tokens / "books", "books", PLAIN, DOCUMENTS)
    save_checkpoint(tmp_path / "start", GPT(tiny_gpt.config).init_weights(3).eval(), PLAIN, {})
    config = TrainingConfig(init_from=str(tmp_path / "start"), block_size=64)
    run_id = start_run(
        registry,
        "a fine-tune",
        {},
        {"kind": "finetune"},
        dict(name="books", digest="d", source="s"),
    )
    facts = {
        "config": dataclasses.asdict(config), "init_checkpoint": str(tmp_path / "start"), "step": 7,
        "mlflow_run_id": run_id, "dataset": "books",
    }  # fmt: skip
    save_checkpoint(home.finetuned, tiny_gpt, PLAIN, facts)
    return home, run_id


def invoke(home, mlflow_server, *arguments, batches=0):
    environment = {
        "DEVOPSGPT_HOME": str(home.path),
        "MLFLOW_TRACKING_URI": mlflow_server.url,
        "COLUMNS": "200",
    }
    return CliRunner().invoke(
        main, ["evaluate", *arguments, "--batches", str(batches)], env=environment
    )


def test_an_older_fine_tune_is_measured_on_a_dataset_that_was_added(
    finetune, registry, mlflow_server
):
    home, run_id = finetune
    version = publish(registry, home.finetuned, run_id, {}, "")
    registry.set_registered_model_alias("devopsgpt", "champion", version)
    home.finetuned.unlink()  # another fine-tune took its place
    write_token_bins(home.tokens / "notes", "notes", PLAIN, DOCUMENTS)
    for name in (version, "champion", run_id):
        answer = invoke(home, mlflow_server, name, "--dataset", "notes")
        assert answer.exit_code == 0, answer.output
        assert f"version {version}, its start" in answer.output
        run = registry.get_run(run_id)
        history = registry.get_metric_history(run_id, "val_loss/notes")
        assert {(metric.step, metric.value) for metric in history} == {
            (7, run.data.metrics["val_loss/notes"])
        }
        assert run.data.metrics["start_val_loss/notes"] != run.data.metrics["val_loss/notes"]
        assert len(run.data.tags["data_version/notes"]) == 16


def test_the_newest_fine_tune_is_found_by_its_run_and_by_no_name(finetune, registry, mlflow_server):
    home, run_id = finetune
    for arguments in ((), (run_id,), (str(home.finetuned),)):
        answer = invoke(home, mlflow_server, *arguments)
        assert answer.exit_code == 0, answer.output
        assert "start" in answer.output
    assert len(registry.get_metric_history(run_id, "val_loss/books")) == 3


def test_the_asset_shows_the_gain_on_the_books_and_what_was_forgotten_elsewhere(
    finetune, registry, mlflow_server
):
    home, run_id = finetune
    write_token_bins(home.tokens / "elsewhere", "elsewhere", PLAIN, DOCUMENTS)
    resources = {
        "home": HomeResource(path=str(home.path)),
        "mlflow": MlflowResource(tracking_uri=mlflow_server.url, ui_url=mlflow_server.url),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([evaluation], resources=resources, instance=instance).success
    run = registry.get_run(run_id)
    for dataset in ("books", "elsewhere"):
        after, before = (
            run.data.metrics[f"{name}/{dataset}"] for name in ("val_loss", "start_val_loss")
        )
        assert after == pytest.approx(before, abs=1)
        assert after != before
        assert len(run.data.tags[f"data_version/{dataset}"]) == 16


def test_a_dataset_too_short_for_the_protocol_is_told(finetune, mlflow_server):
    home, _ = finetune
    short = {**DOCUMENTS, "val": [("b", "a slow answer")]}
    write_token_bins(home.tokens / "notes", "notes", PLAIN, short)
    answer = invoke(home, mlflow_server, "--dataset", "notes", batches=2)
    assert answer.exit_code == 0, answer.output
    told = (
        "warning: finetuned on notes: nanoGPT's protocol was left out, its windows take 65 tokens "
        "and val has 14"
    )
    assert told in answer.output
    # it was asked for
    assert "warning" not in invoke(home, mlflow_server, "--dataset", "notes").output


def test_a_start_that_is_gone_is_told_and_the_rest_is_measured(
    finetune, registry, mlflow_server, tmp_path
):
    home, run_id = finetune
    (tmp_path / "start").unlink()
    answer = invoke(home, mlflow_server)
    assert answer.exit_code == 0, answer.output
    assert "the start of finetuned is not measured" in answer.output
    assert "val_loss/books" in registry.get_run(run_id).data.metrics
    assert "start_val_loss/books" not in registry.get_run(run_id).data.metrics


def test_a_checkpoint_whose_run_is_elsewhere_is_measured_and_not_logged(finetune, mlflow_server):
    home, _ = finetune
    facts = home.finetuned_facts() | {"mlflow_run_id": "0" * 32}
    (home.finetuned / "training.json").write_text(json.dumps(facts))
    answer = invoke(home, mlflow_server)
    assert answer.exit_code == 0, answer.output
    assert "has no MLflow run here; its numbers are only printed" in answer.output


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "gpt3",
            "no model is named 'gpt3'; name one of gpt2, gpt2-medium, gpt2-large, gpt2-xl, a "
            "checkpoint folder",
        ),
        ("99", "devopsgpt has no version 99"),
        ("champion", "devopsgpt has no champion yet"),
        ("0" * 32, "no checkpoint is kept of MLflow run 0000"),
    ],
)
def test_a_name_that_is_no_model_is_told(finetune, mlflow_server, name, told):
    answer = invoke(finetune[0], mlflow_server, name)
    assert answer.exit_code == 1
    assert told in answer.output
    assert "Traceback" not in answer.output
