"""The dataset `openwebtext`: parquet shards of the Hugging Face hub to token bins, one shard at a time.

Memory and, but for the tokens, disk hold one shard. Each encoded shard is kept until the bins are whole, so an
interrupted run goes on with the shard that was cut short.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devopsgpt_model.folders import whole_folder, write_json
from devopsgpt_model.token_bins import DTYPE, SplitMeta, TokenBinsMeta, read_meta, read_tokens
from devopsgpt_model.tokenizer import Tokenizer

REPOSITORY = "Skylion007/openwebtext"
REVISION = "7577b918bd30b25df0b88bb718dc8a6c80cb619b"  # the text as 80 parquet shards
TEST_SIZE, SPLIT_SEED = 0.0005, 2357  # nanoGPT's split of the whole
PART_TEST_SIZE, PART_TEST_MAX = 0.05, 500  # of a part: 0.0005 of few documents would be none
BATCH_DOCUMENTS = 1000  # 5 MB of text in memory at a time

Progress = Callable[[str], None]


class HubUnavailable(ConnectionError):
    """Shards that are neither here nor to be fetched."""


@dataclass(frozen=True)
class Source:
    """What is read. documents: how many from the beginning, 0 for all; endpoint: another hub than the public one"""

    documents: int = 0
    repository: str = REPOSITORY
    revision: str = REVISION
    endpoint: str | None = None

    @property
    def key(self) -> str:
        content = json.dumps([self.documents, self.repository, self.revision])
        return hashlib.sha256(content.encode()).hexdigest()[:12]


def write_openwebtext(
    folder: Path, work: Path, source: Source, tokenizer: Tokenizer, progress: Progress = lambda line: None
) -> TokenBinsMeta:
    """Token bins of OpenWebText, or of its first documents. work: a folder for what is under way

    The bins hold nanoGPT's split when whole, in the order of the shards.
    raises: HubUnavailable; ValueError for a repository without parquet shards, or fewer than two documents
    """
    recipe = {key: value for key, value in asdict(source).items() if key != "endpoint"} | {"tokenizer": tokenizer.name}
    if (done := _finished(folder, recipe)) is not None:
        return done
    place = work / source.key
    place.mkdir(parents=True, exist_ok=True)
    shards = list(_encoded_shards(place, source, tokenizer, progress))
    meta = _write_bins(folder, shards, _held_out(shards, whole=not source.documents), tokenizer, recipe)
    shutil.rmtree(place)
    return meta


def _finished(folder: Path, recipe: dict[str, Any]) -> TokenBinsMeta | None:
    """The bins that are there, where they were made by this recipe and are as long as they should be."""
    path = folder / "source.json"
    if not path.exists() or json.loads(path.read_text()) != recipe:
        return None
    for split in ("train", "val"):
        read_tokens(folder, split)
    return read_meta(folder)


@dataclass(frozen=True)
class Shard:
    """An encoded shard: <path>.bin with its tokens, <path>.npy with int64 (documents, 2): tokens and bytes of each."""

    name: str
    path: Path

    @property
    def documents(self) -> NDArray[np.int64]:
        return np.load(self.path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)

    @property
    def tokens(self) -> NDArray[np.uint16]:
        return np.memmap(self.path.with_suffix(".bin"), dtype=DTYPE, mode="r")


def _encoded_shards(place: Path, source: Source, tokenizer: Tokenizer, progress: Progress) -> Iterator[Shard]:
    names, left = _shard_names(place, source), source.documents or math.inf
    for number, name in enumerate(names):
        shard = Shard(name, place / f"{number:05d}")
        if not shard.path.with_suffix(".npy").exists():  # written last
            parquet = _download(name, place, source)
            _encode_shard(parquet, shard, tokenizer, left)
            parquet.unlink()
        left -= len(shard.documents)
        progress(f"shard {number + 1}/{len(names)}: {len(shard.documents):,} documents, {len(shard.tokens):,} tokens")
        yield shard
        if left <= 0:
            return


def _shard_names(place: Path, source: Source) -> list[str]:
    """The repository's parquet files in order, asked for once."""
    path = place / "shards.json"
    if not path.exists():
        from huggingface_hub import HfApi

        try:
            info = HfApi(endpoint=source.endpoint).dataset_info(source.repository, revision=source.revision)
        except Exception as error:  # the hub's client raises its HTTP library's errors beside its own
            raise _unavailable(source, error) from error
        write_json(path, sorted(one.rfilename for one in info.siblings or [] if one.rfilename.endswith(".parquet")))
    names: list[str] = json.loads(path.read_text())
    if not names:
        path.unlink()
        raise ValueError(f"{source.repository} has no parquet files at revision {source.revision}; name another one")
    return names


def _download(name: str, place: Path, source: Source) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(
                source.repository,
                name,
                repo_type="dataset",
                revision=source.revision,
                local_dir=place,
                endpoint=source.endpoint,
            )
        )
    except Exception as error:  # as above
        raise _unavailable(source, error) from error


def _unavailable(source: Source, error: Exception) -> HubUnavailable:
    return HubUnavailable(
        f"{source.repository} could not be fetched from the Hugging Face hub ({type(error).__name__}: {error}); what "
        "was encoded is kept, materialize token_bins_openwebtext again once there is a network"
    )


def _encode_shard(parquet: Path, shard: Shard, tokenizer: Tokenizer, most: float) -> None:
    """Write the shard's tokens, each document closed by end-of-text, and then what each document takes."""
    sizes: list[tuple[int, int]] = []
    temporary = shard.path.with_suffix(".bin.tmp")
    with temporary.open("wb") as file:
        for texts in _texts(parquet):
            texts = texts[: int(min(len(texts), most - len(sizes)))]
            for text, ids in zip(texts, tokenizer.encode_batch(texts, num_threads=os.cpu_count() or 1), strict=True):
                file.write(np.array([*ids, tokenizer.eot_id], dtype=DTYPE).tobytes())
                sizes.append((len(ids) + 1, len(text.encode())))
            if len(sizes) >= most:
                break
    os.replace(temporary, shard.path.with_suffix(".bin"))
    table = shard.path.with_suffix(".tmp.npy")
    np.save(table, np.array(sizes, dtype=np.int64).reshape(-1, 2), allow_pickle=False)
    os.replace(table, shard.path.with_suffix(".npy"))


def _texts(parquet: Path) -> Iterator[list[str]]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(parquet) as file:
        for batch in file.iter_batches(batch_size=BATCH_DOCUMENTS, columns=["text"]):
            yield batch.column("text").to_pylist()


def _held_out(shards: list[Shard], whole: bool) -> NDArray[np.bool_]:
    """Which documents are held out, over all shards: bool (documents,).

    source: datasets' train_test_split, as nanoGPT calls it: the first of a seeded permutation
    """
    count = sum(len(shard.documents) for shard in shards)
    if count < 2:
        raise ValueError(f"a split needs at least 2 documents, got {count}; ask for more")
    share = math.ceil(TEST_SIZE * count)
    if not whole:
        share = max(share, min(PART_TEST_MAX, math.ceil(PART_TEST_SIZE * count)))
    held = np.zeros(count, dtype=np.bool_)
    held[np.random.default_rng(SPLIT_SEED).permutation(count)[:share]] = True
    return held


def _write_bins(
    folder: Path, shards: list[Shard], held: NDArray[np.bool_], tokenizer: Tokenizer, recipe: dict[str, Any]
) -> TokenBinsMeta:
    """Both bins and what describes them, whole or not at all. meta.json names the shards, not 8 million documents."""
    with whole_folder(folder) as staging:
        splits = {
            split: _write_split(staging / f"{split}.bin", shards, held == (split == "val"))
            for split in ("train", "val")
        }
        meta = TokenBinsMeta("openwebtext", tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id, splits)
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
