"""Text to token ids: MB of text a second, ours on all cores against tiktoken and Hugging Face
tokenizers.

The chapters of the sample books over and over, in batches as the datasets encode them; GPT-2's BPE
where tiktoken can find or fetch it, else one trained on the chapters. The ids of every engine are
compared before anything is timed.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from benchmarks.extraction import pages
from devopsgpt_model.tokenizer import Tokenizer, TokenizerError
from devopsgpt_pipeline.datasets.bpe import train_bpe
from devopsgpt_pipeline.datasets.encode import Encoders
from devopsgpt_pipeline.text.page_to_text import extract_chapter

TOTAL_BYTES = 80_000_000
TURN_BYTES = 16_000_000
BATCH_DOCUMENTS = 200  # as openwebtext takes them out of a shard

Engine = Callable[[list[str]], Sequence[Sequence[int] | NDArray[np.uint16]]]


def chapters() -> list[str]:
    """The text of every chapter of the two sample books."""
    return [extract_chapter(sample.body, sample.book, sample.title).whole for sample in pages()]


def tokenizer_at_hand(texts: list[str]) -> Tokenizer:
    """GPT-2's, or a BPE of 2,048 trained on the texts."""
    try:
        return Tokenizer.gpt2()
    except TokenizerError as error:
        print(f"a BPE of 2,048 in place of GPT-2's: {error}")
        return train_bpe(texts, 2048)


def hugging_face(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary in Hugging Face's library."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder), block_size=1024)
        return tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")


def engines(tokenizer: Tokenizer, encoders: Encoders) -> dict[str, Engine]:
    """Each takes texts and gives their ids; ours closes each with end-of-text, which the bins
    need."""
    encoding, theirs, cores = tokenizer._encoding, hugging_face(tokenizer), encoders.processes

    def ours(texts: list[str]) -> list[NDArray[np.uint16]]:
        batches = (texts[i : i + BATCH_DOCUMENTS] for i in range(0, len(texts), BATCH_DOCUMENTS))
        return [encoded.tokens for encoded in encoders.encode(batches)]

    return {
        "ours": ours,
        "tiktoken, a loop over encode_ordinary": lambda texts: [
            encoding.encode_ordinary(text) for text in texts
        ],
        "tiktoken, encode_ordinary_batch": lambda texts: encoding.encode_ordinary_batch(
            texts, num_threads=cores
        ),
        "tokenizers, encode_batch_fast": lambda texts: [
            one.ids for one in theirs.encode_batch_fast(texts)
        ],
    }


def check_equal(contenders: dict[str, Engine], texts: list[str], eot_id: int) -> int:
    """How many ids the texts have. raises: ValueError where two engines disagree"""
    found = {
        name: np.concatenate([np.asarray(ids) for ids in encode(texts)])
        for name, encode in contenders.items()
    }
    without_ends = {name: ids[ids != eot_id] for name, ids in found.items()}
    for name, ids in without_ends.items():
        if not np.array_equal(ids, without_ends["ours"]):
            raise ValueError(f"{name} gives other ids than ours")
    return len(without_ends["ours"])


def main() -> None:
    """The engines taking turns of 16 MB until 80 MB went through each."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"  # all cores for them as well
    library = chapters()
    size = sum(len(text.encode()) for text in library)
    tokenizer = tokenizer_at_hand(library)
    repeats = -(-TURN_BYTES // size)
    rounds = TOTAL_BYTES // TURN_BYTES
    texts, total = library * repeats, rounds * repeats * size / 1e6
    with Encoders(tokenizer) as encoders:
        contenders = engines(tokenizer, encoders)
        tokens = check_equal(contenders, library * 10, tokenizer.eot_id)
        seconds = dict.fromkeys(contenders, 0.0)
        for _ in range(rounds):
            for name, encode in contenders.items():
                started = time.perf_counter()
                encode(texts)
                seconds[name] += time.perf_counter() - started
        cores = encoders.processes
    print(
        f"{total:.0f} MB in documents of {size / len(library):,.0f} bytes, tokenizer "
        f"{tokenizer.name}, {cores} cores;"
    )
    print(f"identical ids from every engine ({tokens:,} compared)")
    print(f"{'':<38} {'MB/s':>7} {'ours is':>9}")
    for name, spent in seconds.items():
        print(f"{name:<38} {total / spent:>7.1f} {spent / seconds['ours']:>8.2f}x")


if __name__ == "__main__":
    main()
