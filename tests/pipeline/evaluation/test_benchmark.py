"""`devopsgpt benchmark`: lm-evaluation-harness on a checkpoint folder and local data."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from conftest import shared_file

from devopsgpt_model.checkpoint import load_checkpoint, save_checkpoint
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.evaluation.benchmark import _row
from devopsgpt_pipeline.evaluation.benchmark_data import COPIES, NoLocalCopy, local_task
from devopsgpt_pipeline.evaluation.published import BENCHMARKS
from devopsgpt_pipeline.tracking.runs import start_run

PLAIN = Tokenizer.plain_bytes()
LAMBADA = [("The pager rang and he took", "it"), ("She wrote the runbook before the", "shift")]
HELLASWAG = {
    "ind": 1, "activity_label": "On call", "ctx_a": "A pager rings.", "ctx_b": "he",
    "split": "val", "source_id": "x",
    "ctx": "A pager rings. he", "label": 1,
    "endings": ["sleeps on.", "answers.", "sings.", "paints."],
}  # fmt: skip


def benchmark(*arguments, **environment):
    return CliRunner().invoke(
        main, ["benchmark", *map(str, arguments)], env={"COLUMNS": "200", **environment}
    )


@pytest.fixture
def data(tmp_path):
    """Two rows of LAMBADA, two pages of WikiText, one question of HellaSwag, as they are
    published."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.dumps({"context": context, "continuation": word}) for context, word in LAMBADA]
    (folder / "lambada_openai.jsonl").write_text("\n".join(rows) + "\n")
    pages = (
        " = One = \n \n It was up . \n = = Part = = \n And down . \n = Two = \n \n It was up again "
        ". \n"
    )
    (folder / "wikitext2_raw_test.txt").write_text(pages)
    (folder / "hellaswag_val.jsonl").write_text(json.dumps(HELLASWAG) + "\n")
    return folder


def log_probability(model, context, continuation):
    ids = torch.tensor([PLAIN.encode(context + continuation)])
    with torch.no_grad():
        logits, _ = model(ids[:, :-1], ids[:, 1:])
    chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[:, 1:, None])[0, :, 0]
    return float(chosen[-len(PLAIN.encode(continuation)) :].sum())


@pytest.mark.slow  # 10 s, most of them for the harness's imports
def test_the_harness_measures_the_checkpoint_as_it_is_and_its_run_keeps_the_numbers(
    tiny_gpt, data, registry, mlflow_server, tmp_path
):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    run_id = start_run(registry, "a fine-tune", {}, {}, dict(name="books", digest="d", source="s"))
    save_checkpoint(tmp_path / "checkpoint", tiny_gpt, PLAIN, {"step": 7, "mlflow_run_id": run_id})
    answer = benchmark(
        tmp_path / "checkpoint",
        "--data",
        data,
        DEVOPSGPT_HOME=str(tmp_path),
        MLFLOW_TRACKING_URI=mlflow_server.url,
    )
    assert answer.exit_code == 0, answer.output
    model = load_checkpoint(tmp_path / "checkpoint").model
    ours = [log_probability(model, context, f" {word}") for context, word in LAMBADA]
    run = registry.get_run(run_id)
    assert run.data.metrics["perplexity/lambada_openai"] == pytest.approx(
        math.exp(-sum(ours) / 2), rel=1e-3
    )
    assert run.data.metrics["acc/lambada_openai"] == 0  # random weights
    assert {
        "word_perplexity/wikitext",
        "byte_perplexity/wikitext",
        "bits_per_byte/wikitext",
    } <= set(run.data.metrics)
    # 256 bytes, none more likely: 8 bits, over the bytes of a text that the harness makes shorter
    # first
    assert 6 < run.data.metrics["bits_per_byte/wikitext"] < 8
    assert {run.data.metrics["acc/hellaswag"], run.data.metrics["acc_norm/hellaswag"]} <= {0.0, 1.0}
    assert registry.get_metric_history(run_id, "acc/hellaswag")[0].step == 7
    assert len(run.data.tags["data_version/lambada_openai"]) == 16
    for word in ("lambada_openai", "perplexity", "word_perplexity", "acc_norm", "published"):
        assert word in answer.output


@pytest.mark.slow
def test_a_limit_is_a_look_and_a_failing_harness_is_heard(checkpoint_folder, data, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    answer = benchmark(
        checkpoint_folder,
        "--data",
        data,
        "--tasks",
        "lambada_openai",
        "--limit",
        1,
        DEVOPSGPT_HOME=str(tmp_path),
    )
    assert answer.exit_code == 0, answer.output
    assert "the first 1 rows of each task only: a look, which is not logged" in answer.output
    (data / "hellaswag_val.jsonl").write_text('{"no": "question"}\n')
    answer = benchmark(
        checkpoint_folder, "--data", data, "--tasks", "hellaswag", DEVOPSGPT_HOME=str(tmp_path)
    )
    assert answer.exit_code == 1
    assert "lm-evaluation-harness failed; it said last:" in answer.output


def test_a_task_without_a_local_copy_names_the_file(checkpoint_folder, data, tmp_path):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    (data / "hellaswag_val.jsonl").unlink()
    answer = benchmark(checkpoint_folder, "--data", data, DEVOPSGPT_HOME=str(tmp_path))
    assert answer.exit_code == 1
    assert "no data of hellaswag in" in answer.output
    assert "put hellaswag_val.jsonl there" in answer.output
    with pytest.raises(
        NoLocalCopy, match="arc_easy is not read from a folder, only lambada_openai, wik"
    ):
        local_task("arc_easy", data, tmp_path)


def rows_of(task, path, tmp_path):
    found = local_task(task, path.parent, tmp_path)
    (file,) = found.dataset["dataset_kwargs"]["data_files"].values()
    with open(file) as lines:
        return [json.loads(line) for line in lines]


def test_published_files_are_the_tasks_rows(tmp_path):
    lambada = rows_of("lambada_openai", shared_file("lambada_openai.jsonl"), tmp_path)
    assert len(lambada) == 5153
    assert lambada[0]["text"].endswith("I don't care about signs")
    pages = rows_of("wikitext", shared_file("wikitext2_raw_test.txt"), tmp_path)
    assert len(pages) == 62  # as many as EleutherAI's wikitext_document_level has
    assert (
        "".join(row["page"] for row in pages) == shared_file("wikitext2_raw_test.txt").read_text()
    )


def test_openais_lambada_file_is_read_as_it_is(tmp_path):
    (tmp_path / "lambada_test.jsonl").write_text('{"text": "a b c"}\n')
    assert rows_of("lambada_openai", tmp_path / "lambada_test.jsonl", tmp_path) == [
        {"text": "a b c"}
    ]


def test_published_values_stand_beside_gpt2_only():
    samples = dict.fromkeys(COPIES, 5)
    assert _row("gpt2", "acc/lambada_openai", 0.3, samples)["published"] == "0.3256"
    assert _row("gpt2", "acc/hellaswag", 0.3, samples)["published"] == "-"
    assert _row("version 3", "acc/lambada_openai", 0.3, samples)["published"] == "-"
    assert {key.partition("/")[2] for key in BENCHMARKS["gpt2"]} == set(COPIES)
