"""Bins replaced at equal length: no training and no evaluation takes them for what they were."""

import pytest
from pipeline.training.running import CONFIG, TEXT

from devopsgpt_model.token_bins import DTYPE, TokenBins, TokenBinsError, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.train import train
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_pipeline.evaluation.evaluate import evaluate_models
from devopsgpt_pipeline.home import Home


@pytest.fixture
def bins(tmp_path):
    folder = Home(tmp_path / "home").bins("books")
    documents = {"train": [("a", TEXT)], "val": [("b", TEXT[:400])]}
    write_token_bins(folder, "books", Tokenizer.plain_bytes(), documents)
    return TokenBins.open(folder)


def replace_half(bins, split):
    """Another token of the vocabulary, as often as there were tokens."""
    path = bins.folder / f"{split}.bin"
    half = path.stat().st_size // 2 // DTYPE.itemsize * DTYPE.itemsize
    content = path.read_bytes()
    path.write_bytes(bytes(half) + content[half:])
    assert path.stat().st_size == len(content)


@pytest.mark.parametrize("split", ["train", "val"])
def test_no_training_begins_on_replaced_bins(split, bins, tmp_path, tried):
    replace_half(bins, split)
    with pytest.raises(TokenBinsError, match=rf"{split}\.bin should have sha256") as error:
        train(TrainingJob(config=CONFIG, bins=bins.folder, out=tmp_path / "out"))
    tried(f"half of {split}.bin replaced, then trained", str(error.value))
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_no_evaluation_takes_replaced_bins(bins, tmp_path, tried):
    replace_half(bins, "val")
    home = Home(tmp_path / "home")
    with pytest.raises(TokenBinsError, match=r"val\.bin should have sha256") as error:
        evaluate_models(home, None, ["gpt2"], ["books"], 0, print)
    tried("half of val.bin replaced, then evaluated", str(error.value))


def test_whole_bins_are_taken(bins, tmp_path):
    bins.check()
    facts = train(TrainingJob(config=CONFIG, bins=bins.folder, out=tmp_path / "out"))
    assert facts["steps_trained"] == CONFIG.max_steps
