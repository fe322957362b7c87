"""The dataset `openwebtext`: parquet shards of the Hugging Face hub to token bins, one shard at a
time.

Memory and, but for the tokens, disk hold one shard. Each encoded shard is kept until the bins are
whole, so an interrupted run goes on with the shard that was cut short.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from devopsgpt_model.atomic import atomic_folder, write_json
from devopsgpt_model.token_bins import DTYPE, SPLITS, SplitMeta, TokenBins, TokenBinsMeta
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets.encode import Encoders
from devopsgpt_pipeline.hub.download import Say
from devopsgpt_pipeline.hub.shards import declared_shards, one_shard
from devopsgpt_pipeline.hub.source import Source

TEST_SIZE, SPLIT_SEED = 0.0005, 2357  # nanoGPT's split of the whole
PART_TEST_SIZE, PART_TEST_MAX = 0.05, 500  # of a part: 0.0005 of few documents would be none
BATCH_DOCUMENTS = 200  # 1 MB of text: what a process encodes at a time


def write_openwebtext(
    folder: Path,
    work: Path,
    source: Source,
    tokenizer: Tokenizer,
    say: Say = lambda line: None,
) -> TokenBinsMeta:
    """Token bins of OpenWebText, or of its first documents. work: a folder for what is under way

    The bins hold nanoGPT's split when whole, in the order of the shards.
    raises: HubUnavailable; ValueError for a repository without parquet shards, or fewer than two
    documents
    """
    recipe = {name: getattr(source, name) for name in ("documents", "repository", "revision")}
    recipe["tokenizer"] = tokenizer.name
    if (done := _finished(folder, recipe)) is not None:
        return done
    place = work / source.key
    place.mkdir(parents=True, exist_ok=True)
    with Encoders(tokenizer) as encoders:
        shards = list(_encoded_shards(place, source, encoders, say))
    if (found := sum(len(shard.documents) for shard in shards)) < source.documents:
        raise ValueError(
            f"{source.repository} was asked for {source.documents:,} documents, its "
            f"shards hold {found:,}"
        )
    held = held_out_documents(found, whole=not source.documents)
    meta = _write_bins(folder, shards, held, tokenizer, recipe)
    shutil.rmtree(place)
    return meta


def _finished(folder: Path, recipe: dict[str, Any]) -> TokenBinsMeta | None:
    """The bins that are there, where they were made by this recipe and are as long as they should
    be."""
    path = folder / "source.json"
    if not path.exists() or json.loads(path.read_text()) != recipe:
        return None
    bins = TokenBins.open(folder)
    for split in SPLITS:
        bins.tokens(split)
    return bins.meta


@dataclass(frozen=True)
class Shard:
    """An encoded shard: <path>.bin with its tokens, <path>.npy with int64 (documents, 2): tokens
    and bytes of each."""

    name: str
    path: Path

    @property
    def documents(self) -> NDArray[np.int64]:
        return np.load(self.path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)

    @property
    def tokens(self) -> NDArray[np.uint16]:
        return np.memmap(self.path.with_suffix(".bin"), dtype=DTYPE, mode="r")


def _encoded_shards(place: Path, source: Source, encoders: Encoders, say: Say) -> Iterator[Shard]:
    declared, left = declared_shards(place, source), source.documents or math.inf
    for number, (name, sha256) in enumerate(declared.items()):
        shard = Shard(name, place / f"{number:05d}")
        if not shard.path.with_suffix(".npy").exists():  # written last
            with one_shard(name, sha256, place, source, say) as parquet:
                _encode_shard(parquet, shard, encoders, left)
        left -= len(shard.documents)
        say(
            f"shard {number + 1}/{len(declared)}: {len(shard.documents):,} documents, "
            f"{len(shard.tokens):,} tokens"
        )
        yield shard
        if left <= 0:
            return


def _encode_shard(parquet: Path, shard: Shard, encoders: Encoders, most: float) -> None:
    """Write the tokens of the shard's first documents, and then what each document takes. most: how
    many documents"""
    sizes = [np.empty((0, 2), dtype=np.int64)]
    temporary = shard.path.with_suffix(".bin.tmp")
    with temporary.open("wb") as file:
        for encoded in encoders.encode(_texts(parquet, most)):
            file.write(encoded.tokens.data)
            sizes.append(encoded.sizes)
    os.replace(temporary, shard.path.with_suffix(".bin"))
    table = shard.path.with_suffix(".tmp.npy")
    np.save(table, np.concatenate(sizes), allow_pickle=False)
    os.replace(table, shard.path.with_suffix(".npy"))


def _texts(parquet: Path, most: float) -> Iterator[list[str]]:
    with ParquetFile(parquet) as file:
        for batch in file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=["text"]):
            texts = batch.column("text").to_pylist()[: int(min(BATCH_DOCUMENTS, most))]
            most -= len(texts)
            yield texts
            if most <= 0:
                return


def held_out_documents(count: int, whole: bool) -> NDArray[np.bool_]:
    """Which documents are held out: bool (count,). whole: nanoGPT's share; of a part, enough for a
    measurement

    raises: ValueError for fewer than two documents
    source: datasets' train_test_split as nanoGPT calls it: the first of a seeded permutation, their
    number rounded up
    """
    if count < 2:
        raise ValueError(f"a split needs at least 2 documents, got {count}; ask for more")
    share = math.ceil(TEST_SIZE * count)
    if not whole:
        share = max(share, min(PART_TEST_MAX, math.ceil(PART_TEST_SIZE * count)))
    held = np.zeros(count, dtype=np.bool_)
    held[np.random.default_rng(SPLIT_SEED).permutation(count)[:share]] = True
    return held


def _write_bins(
    folder: Path,
    shards: list[Shard],
    held: NDArray[np.bool_],
    tokenizer: Tokenizer,
    recipe: dict[str, Any],
) -> TokenBinsMeta:
    """Both bins and what describes them, whole or not at all. meta.json names the shards, not 8
    million documents."""
    with atomic_folder(folder) as staging:
        splits = {
            split: _write_split(staging / f"{split}.bin", shards, held == (split == "val"))
            for split in ("train", "val")
        }
        meta = TokenBinsMeta(
            "openwebtext", tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id, splits
        )
        tokenizer.save(staging, block_size=1024)
        write_json(staging / "meta.json", asdict(meta))
        write_json(staging / "source.json", recipe)
    return meta


def _write_split(path: Path, shards: list[Shard], chosen: NDArray[np.bool_]) -> SplitMeta:
    """The chosen documents of every shard. chosen: bool (documents,)"""
    digest, tokens, text_bytes, begins, first = hashlib.sha256(), 0, 0, [], 0
    with path.open("wb") as file:
        for shard in shards:
            sizes, ids = shard.documents, shard.tokens
            ends, mine = np.cumsum(sizes[:, 0]), chosen[first : first + len(sizes)]
            begins.append((shard.name, tokens))
            for i in np.flatnonzero(mine).tolist():
                piece = ids[ends[i] - sizes[i, 0] : ends[i]].tobytes()
                digest.update(piece)
                file.write(piece)
            tokens += int(sizes[mine, 0].sum())
            text_bytes += int(sizes[mine, 1].sum())
            first += len(sizes)
    return SplitMeta(tokens, text_bytes, digest.hexdigest(), begins)
