from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from pipeline.commands.running import invoke


def test_sample_continues_a_prompt_and_repeats_itself(checkpoint_folder):
    arguments = [
        "sample",
        "On call,",
        "--checkpoint",
        str(checkpoint_folder),
        "--max-tokens",
        "20",
        "--seed",
        "3",
    ]
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output
    assert first.output.startswith("On call,")
    assert invoke(*arguments).output == first.output


def test_sample_without_a_checkpoint_says_what_to_do(tmp_path):
    answer = invoke("sample", "x", DEVOPSGPT_HOME=str(tmp_path))
    assert answer.exit_code == 1
    assert "no tokenizer.json in" in answer.output
    assert "Traceback" not in answer.output


def test_evaluate_prints_a_table_of_both_splits(checkpoint_folder, tmp_path):
    documents = {"train": [("a", "a steady service " * 20)], "val": [("b", "a slow answer " * 20)]}
    write_token_bins(tmp_path / "tokens" / "toy", "toy", Tokenizer.plain_bytes(), documents)
    answer = invoke(
        "evaluate",
        str(checkpoint_folder),
        "--dataset",
        "toy",
        DEVOPSGPT_HOME=str(tmp_path),
        COLUMNS="160",
    )
    assert answer.exit_code == 0, answer.output
    for word in ("train", "val", "perplexity", "bits_per_byte"):
        assert word in answer.output


def test_evaluate_on_a_dataset_that_is_not_there_says_so(checkpoint_folder, tmp_path):
    answer = invoke(
        "evaluate", str(checkpoint_folder), "--dataset", "nope", DEVOPSGPT_HOME=str(tmp_path)
    )
    assert answer.exit_code == 1
    assert "no token bins in" in answer.output
