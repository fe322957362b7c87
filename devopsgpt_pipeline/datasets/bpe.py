"""Training a byte-level BPE on a small corpus, so that a small model speaks in words and not in
letters."""

from collections.abc import Iterable

from devopsgpt_model.tokenizer import Tokenizer, TokenizerError, bytes_of

SMALLEST_VOCABULARY = 257  # every byte, and end of text: GPT without a BPE


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of vocab_size ids, merges learned by Hugging Face tokenizers, end-of-text last.

    vocab_size 257 is plain bytes. A corpus too small for vocab_size gives fewer ids.
    raises: TokenizerError for a vocab_size outside 257..65,536
    """
    if not SMALLEST_VOCABULARY <= vocab_size <= 65_536:
        raise TokenizerError(
            f"vocab_size must be 257 (plain bytes) to 65,536 (uint16), got {vocab_size}"
        )
    if vocab_size == SMALLEST_VOCABULARY:
        return Tokenizer.plain_bytes()
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from tokenizers import models, pre_tokenizers, trainers

    learner = HuggingFaceTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False
        ),
    )
    symbols = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    return Tokenizer("bpe", {bytes_of(symbol): rank for rank, (symbol, _) in enumerate(symbols)})
