import pytest

from devopsgpt_model.tokenizer import TokenizerError
from devopsgpt_pipeline.datasets.books import DatasetError, make_tokenizer, split_chapters
from devopsgpt_pipeline.datasets.bpe import train_bpe
from devopsgpt_pipeline.text.corpus import NoChapters

DOCUMENTS = {
    "train": [("a", "the service answers, the service waits " * 20)],
    "val": [("b", "a pager rings")],
}


def test_a_trained_bpe_has_words_and_round_trips():
    tokenizer = train_bpe([text for _, text in DOCUMENTS["train"]], 280)
    assert len(tokenizer.encode("the service answers")) < 8
    assert tokenizer.decode(tokenizer.encode("naïve 🎉 pager")) == "naïve 🎉 pager"


def test_a_vocabulary_of_257_is_plain_bytes():
    assert make_tokenizer("bpe", 257, DOCUMENTS).name == "bytes"


def test_the_held_out_text_is_not_seen_by_the_tokenizer():
    alone = train_bpe([text for _, text in DOCUMENTS["train"]], 300)
    assert make_tokenizer("bpe", 300, DOCUMENTS).ranks == alone.ranks


@pytest.mark.parametrize("size", [0, 256, 65_537])
def test_a_vocabulary_out_of_range_is_refused(size):
    with pytest.raises(TokenizerError, match=f"257 .plain bytes. to 65,536 .uint16., got {size}"):
        train_bpe(["x"], size)


def test_an_unknown_tokenizer_is_told_with_the_known_ones():
    with pytest.raises(DatasetError, match="tokenizer must be one of gpt2, bpe, got 'gpt4'"):
        make_tokenizer("gpt4", 2048, DOCUMENTS)


def test_books_without_text_are_told(tmp_path):
    with pytest.raises(NoChapters, match="clean the book first"):
        split_chapters(tmp_path, ["nobody"], 0.1)
