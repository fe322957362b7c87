"""The dataset `books`: clean chapters to token bins, whole chapters held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devopsgpt_model.token_bins import SPLITS, TokenBins, TokenBinsMeta, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets.bpe import train_bpe
from devopsgpt_pipeline.home import BOOKS
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.text.corpus import read_texts, text_version
from devopsgpt_pipeline.text.held_out import held_out
from devopsgpt_pipeline.text.leaks import SharedRun, shared_runs

Documents = dict[str, list[tuple[str, str]]]

TOKENIZERS = ("gpt2", "bpe")


class DatasetError(ValueError):
    """Texts that make no dataset."""


def split_chapters(text: Path, books: Sequence[str], held_out_fraction: float) -> Documents:
    """Chapters in reading order as (book/slug, text), per split. text: the folder of clean text

    raises: NoChapters where a book has no text yet; DatasetError where a split would have no
    chapter
    """
    documents: Documents = {"train": [], "val": []}
    for book in books:
        for row, chapter in read_texts(text / book):
            split = "val" if held_out(book, row.slug, held_out_fraction) else "train"
            documents[split].append((f"{book}/{row.slug}", chapter))
    if empty := [split for split, chapters in documents.items() if not chapters]:
        raise DatasetError(
            f"no chapter falls into the {empty[0]} split of {', '.join(books)} with "
            "held_out_fraction "
            f"{held_out_fraction}; choose another fraction"
        )
    return documents


def make_tokenizer(kind: str, vocab_size: int, documents: Documents) -> Tokenizer:
    """GPT-2's tokenizer, or a BPE that has seen the training chapters only.

    raises: DatasetError for an unknown kind; TokenizerError
    """
    if kind not in TOKENIZERS:
        raise DatasetError(f"tokenizer must be one of {', '.join(TOKENIZERS)}, got {kind!r}")
    if kind == "gpt2":
        return Tokenizer.gpt2()
    return train_bpe((text for _, text in documents["train"]), vocab_size)


def origin_of(text: Path, books: Sequence[Book], documents: Documents) -> dict[str, Any]:
    """Which books and chapters the documents are: licence, page, hashes and split. For meta.json,
    and on from there.

    raises: DatasetError where a text changed since the documents were read
    """
    splits = {
        name: (split, words) for split, chapters in documents.items() for name, words in chapters
    }
    told: dict[str, Any] = {"books": [], "chapters": []}
    for book in books:
        rows = [row for row, _ in read_texts(text / book.name)]
        about = {
            key: getattr(book, key)
            for key in ("name", "title", "licence", "attribution", "contents_url")
        }
        told["books"].append(about | {"text_version": text_version(rows)})
        for row in rows:
            split, words = splits.get(f"{book.name}/{row.slug}", ("", ""))
            if hashlib.sha256(words.encode()).hexdigest() != row.sha256:
                raise DatasetError(
                    f"the text of {book.name}/{row.slug} changed meanwhile; "
                    "materialize token_bins anew"
                )
            facts = {
                key: value
                for key, value in asdict(row).items()
                if key not in ("order", "chars", "sha256")
            }
            told["chapters"].append(
                facts | {"book": book.name, "split": split, "text_sha256": row.sha256}
            )
    return told


def write_books(
    folder: Path, documents: Documents, tokenizer: Tokenizer, origin: dict[str, Any] | None = None
) -> TokenBinsMeta:
    """Write the token bins of the dataset `books`."""
    return write_token_bins(folder, BOOKS, tokenizer, documents, origin=origin)


def leaked_runs(bins: TokenBins, quoted: Sequence[str] = ()) -> list[SharedRun]:
    """Runs of 50 tokens and more that stand in a held-out chapter and in a training one.

    quoted: texts that may stand on both sides, such as a sentence that both chapters quote
    """
    docs = {split: bins.documents(split) for split in SPLITS}

    def text_of(run: SharedRun) -> str:
        ids = docs["val"][run.held_out_doc][run.held_out_start : run.held_out_start + run.length]
        return bins.tokenizer.decode(ids.tolist()).strip()

    runs = shared_runs(docs["train"], docs["val"])
    return [run for run in runs if not any(text_of(run) in quote for quote in quoted)]
