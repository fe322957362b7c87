import numpy as np
import pytest

from devopsgpt_model.token_bins import TokenBins, TokenBinsError, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer

DOCUMENTS = {"train": [("a", "first text"), ("b", "second")], "val": [("c", "held out")]}


@pytest.fixture
def bins(tmp_path):
    write_token_bins(tmp_path / "tokens", "toy", Tokenizer.plain_bytes(), DOCUMENTS)
    return tmp_path / "tokens"


def test_bins_are_raw_little_endian_uint16_with_end_of_text_between_documents(bins):
    raw = np.fromfile(bins / "train.bin", dtype="<u2").tolist()
    assert raw == [*b"first text", 256, *b"second", 256]


def test_meta_tells_counts_offsets_and_hashes(bins):
    meta = TokenBins.open(bins).meta
    assert meta.splits["train"].tokens == 18
    assert meta.splits["train"].documents == [("a", 0), ("b", 11)]
    assert meta.splits["val"].text_bytes == 8
    assert len(meta.splits["val"].sha256) == 64


def test_the_data_version_follows_the_content(bins, tmp_path):
    same = write_token_bins(tmp_path / "same", "toy", Tokenizer.plain_bytes(), DOCUMENTS)
    other = write_token_bins(
        tmp_path / "other", "toy", Tokenizer.plain_bytes(), {**DOCUMENTS, "val": [("c", "held in")]}
    )
    assert TokenBins.open(bins).meta.data_version == same.data_version != other.data_version


def test_a_truncated_bin_is_refused(bins):
    path = bins / "train.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        TokenBinsError, match=r"should have 36 bytes .* has 34; materialize token_bins again"
    ):
        TokenBins.open(bins).tokens("train")


def test_missing_and_damaged_bins_are_told(bins, tmp_path):
    with pytest.raises(TokenBinsError, match="no token bins"):
        TokenBins.open(tmp_path / "nowhere")
    (bins / "meta.json").write_text("{}")
    with pytest.raises(TokenBinsError, match="damaged"):
        TokenBins.open(bins)


def test_an_empty_split_is_refused_and_the_old_bins_stay(bins):
    with pytest.raises(ValueError, match="val split of toy has no tokens"):
        write_token_bins(bins, "toy", Tokenizer.plain_bytes(), {**DOCUMENTS, "val": []})
    assert TokenBins.open(bins).meta.splits["val"].tokens == 9
