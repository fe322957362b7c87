import numpy as np
import pytest
from conftest import shared_file

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.datasets.shakespeare import (
    ShakespeareUnavailable,
    fetch_shakespeare,
    write_shakespeare,
)


def test_the_counts_are_the_published_ones(gpt2_tokenizer, tmp_path):
    text = fetch_shakespeare(shared_file("tinyshakespeare.txt"))
    write_shakespeare(tmp_path / "bins", text, gpt2_tokenizer)
    splits = TokenBins.open(tmp_path / "bins").meta.splits
    assert (splits["train"].tokens, splits["val"].tokens) == (301_966, 36_059)
    # nanoGPT's train.py reads a bin just so
    assert len(np.memmap(tmp_path / "bins" / "train.bin", dtype=np.uint16, mode="r")) == 301_966


def test_without_a_network_the_file_is_named(tmp_path):
    path = tmp_path / "text" / "tinyshakespeare.txt"
    with pytest.raises(
        ShakespeareUnavailable, match=r"put the file at .*tinyshakespeare.txt by hand"
    ):
        fetch_shakespeare(path, url="http://127.0.0.1:9/input.txt")
    assert not path.exists()


def test_another_text_is_refused(tmp_path):
    (tmp_path / "input.txt").write_text("To be")
    with pytest.raises(ValueError, match="it is not tiny shakespeare"):
        fetch_shakespeare(tmp_path / "input.txt")
