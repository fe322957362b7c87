"""Token bins: the files between tokenizing and training.

`train.bin` and `val.bin` are raw little-endian uint16 token ids, documents separated by
end-of-text, which nanoGPT's own train.py can read. `meta.json` beside them says with which
tokenizer, how many, and their hashes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devopsgpt_model.atomic import atomic_folder, file_sha256, write_json
from devopsgpt_model.tokenizer import Tokenizer

DTYPE = np.dtype("<u2")
SPLITS = ("train", "val")


class TokenBinsError(ValueError):
    """Token bins that are missing, truncated or not what their meta.json says."""


@dataclass(frozen=True)
class SplitMeta:
    """One bin. documents: name and first token of each, in order."""

    tokens: int
    text_bytes: int
    sha256: str
    documents: list[tuple[str, int]]


@dataclass(frozen=True)
class TokenBinsMeta:
    """What `meta.json` holds. origin: what the dataset was made of, as its maker tells; no part of
    its version"""

    dataset: str
    tokenizer: str
    vocab_size: int
    eot_id: int
    splits: dict[str, SplitMeta] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def data_version(self) -> str:
        """Hash over both bins and the vocabulary that they are written in."""
        parts = [
            self.tokenizer,
            str(self.vocab_size),
            *(self.splits[split].sha256 for split in SPLITS),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def write_token_bins(
    folder: Path,
    dataset: str,
    tokenizer: Tokenizer,
    documents: Mapping[str, Sequence[tuple[str, str]]],
    separate: bool = True,
    origin: Mapping[str, Any] | None = None,
) -> TokenBinsMeta:
    """Encode documents and write train.bin, val.bin, meta.json and the tokenizer, whole or not at
    all.

    documents: per split, (name, text) in order; separate: put end-of-text after each document
    origin: JSON that tells what they are, for meta.json
    raises: ValueError for a split without a token, or a vocabulary too large for uint16
    """
    if tokenizer.vocab_size > np.iinfo(DTYPE).max + 1:
        raise ValueError(f"vocab_size must fit uint16 (at most 65,536), got {tokenizer.vocab_size}")
    splits = {}
    with atomic_folder(folder) as staging:
        for split in SPLITS:
            ids, offsets = _encode(tokenizer, documents[split], separate)
            if not ids.size:
                raise ValueError(
                    f"the {split} split of {dataset} has no tokens; give it at least one document"
                )
            text_bytes = sum(len(text.encode()) for _, text in documents[split])
            digest = hashlib.sha256(ids.tobytes()).hexdigest()
            splits[split] = SplitMeta(ids.size, text_bytes, digest, offsets)
            (staging / f"{split}.bin").write_bytes(ids.tobytes())
        facts = (tokenizer.name, tokenizer.vocab_size, tokenizer.eot_id, splits, dict(origin or {}))
        meta = TokenBinsMeta(dataset, *facts)
        tokenizer.save(staging, block_size=1024)
        write_json(staging / "meta.json", asdict(meta))
    return meta


def _encode(
    tokenizer: Tokenizer, documents: Sequence[tuple[str, str]], separate: bool
) -> tuple[NDArray[np.uint16], list[tuple[str, int]]]:
    pieces, offsets, position = [], [], 0
    for (name, _), ids in zip(
        documents, tokenizer.encode_batch([text for _, text in documents]), strict=True
    ):
        offsets.append((name, position))
        pieces.append(np.array(ids + [tokenizer.eot_id] * separate, dtype=DTYPE))
        position += pieces[-1].size
    return np.concatenate(pieces) if pieces else np.array([], dtype=DTYPE), offsets


@dataclass(frozen=True)
class TokenBins:
    """A dataset, opened once: what its bins are, their tokenizer, and their tokens, mapped."""

    folder: Path
    meta: TokenBinsMeta

    @classmethod
    def open(cls, folder: Path) -> "TokenBins":
        """raises: TokenBinsError where meta.json is missing or damaged"""
        try:
            content = json.loads((folder / "meta.json").read_text())
            splits = {
                name: SplitMeta(
                    **{**split, "documents": [tuple(document) for document in split["documents"]]}
                )
                for name, split in content.pop("splits").items()
            }
            return cls(folder, TokenBinsMeta(**content, splits=splits))
        except FileNotFoundError:
            raise TokenBinsError(
                f"no token bins in {folder}; materialize the dataset's token_bins first"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TokenBinsError(
                f"{folder / 'meta.json'} is damaged, materialize token_bins again: {error!r}"
            ) from error

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the bins are written with. raises: TokenizerError"""
        return Tokenizer.load(self.folder)

    def tokens(self, split: str) -> NDArray[np.uint16]:
        """One bin, memory-mapped. raises: TokenBinsError where its length is not meta.json's"""
        expected = self.meta.splits[split].tokens
        path = self.folder / f"{split}.bin"
        found = path.stat().st_size if path.exists() else 0
        if found != expected * DTYPE.itemsize:
            raise TokenBinsError(
                f"{path} should have {expected * DTYPE.itemsize:,} bytes ({expected:,} tokens) and "
                f"has {found:,}; materialize token_bins again"
            )
        return np.memmap(path, dtype=DTYPE, mode="r")

    def check(self) -> None:
        """Read both bins to their ends: once for each training or evaluation, which trusts them
        then.

        raises: TokenBinsError where their length or sha256 is not meta.json's
        """
        for split in SPLITS:
            self.tokens(split)
            path, expected = self.folder / f"{split}.bin", self.meta.splits[split].sha256
            if (found := file_sha256(path)) != expected:
                raise TokenBinsError(
                    f"{path} should have sha256 {expected[:12]}... and has {found[:12]}...; "
                    "materialize token_bins again"
                )

    def documents(self, split: str) -> dict[str, NDArray[np.uint16]]:
        """The tokens of each document, by name and in order. raises: TokenBinsError"""
        tokens, starts = self.tokens(split), self.meta.splits[split].documents
        ends = [start for _, start in starts[1:]] + [len(tokens)]
        return {name: tokens[start:end] for (name, start), end in zip(starts, ends, strict=True)}
