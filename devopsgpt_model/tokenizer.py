"""Text to token ids and back: GPT-2's BPE, a byte-level BPE trained on the corpus, or plain bytes.

All three are one thing, a table of byte strings ranked by merge order, encoded by tiktoken. On disk
it is Hugging Face's tokenizer.json, so that transformers and vLLM encode the same text to the same
ids.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tiktoken
from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"

# GPT-2's split of a text into words, as tiktoken spells it.
SPLIT_PATTERN = (
    r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)


class TokenizerError(ValueError):
    """A tokenizer that cannot be had, or a file that does not describe one of ours."""


class Tokenizer:
    """Token ids of a text, and the text of token ids. Any text round-trips: every byte is a
    token."""

    def __init__(self, name: str, ranks: dict[bytes, int]) -> None:
        """name: "gpt2", "bpe" or "bytes"; ranks: token bytes -> id, in merge order; end-of-text
        comes last."""
        if b"" in ranks:
            raise TokenizerError("every token must stand for a byte at least, one is empty")
        if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
            raise TokenizerError(f"every single byte must be a token, byte {missing[0]} is not")
        self.name = name
        self.ranks = ranks
        self.eot_id = len(ranks)
        self.vocab_size = len(ranks) + 1

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            name=f"devopsgpt-{self.name}",
            pat_str=SPLIT_PATTERN,
            mergeable_ranks=self.ranks,
            special_tokens={END_OF_TEXT: self.eot_id},
        )

    @classmethod
    def gpt2(cls) -> "Tokenizer":
        """OpenAI's GPT-2 tokenizer. raises: TokenizerError where tiktoken can neither find nor
        fetch it."""
        try:
            encoding = tiktoken.get_encoding("gpt2")
        except OSError as error:  # requests' errors are OSErrors
            raise TokenizerError(
                "GPT-2's tokenizer files could not be fetched: connect this machine once, or set "
                f"TIKTOKEN_CACHE_DIR to a folder that holds tiktoken's cached files ({error})"
            ) from error
        ranks = {
            token: encoding.encode_single_token(token) for token in encoding.token_byte_values()
        }
        return cls("gpt2", dict(sorted(ranks.items(), key=lambda item: item[1])))

    @classmethod
    def plain_bytes(cls) -> "Tokenizer":
        """One token per byte: a BPE without merges, 257 ids."""
        return cls("bytes", {bytes([byte]): byte for byte in range(256)})

    def encode(self, text: str) -> list[int]:
        """Ids of a text. The text <|endoftext|> is text like any other here, never the special
        token."""
        return self._encoding.encode_ordinary(text)

    def encode_special(self, text: str) -> list[int]:
        """Ids of a text in which <|endoftext|> is the special token, as in Hugging Face's
        tokenizers."""
        return self._encoding.encode(text, allowed_special={END_OF_TEXT})

    def encode_batch(self, texts: Sequence[str], num_threads: int = 2) -> list[list[int]]:
        """Ids of several texts, encoded in parallel."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=num_threads)

    def encode_array(self, text: str) -> NDArray[np.uint16]:
        """The same ids without a list of Python's integers in between. text: no lone surrogates"""
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that form no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """UTF-8 bytes of ids, for streams that may pause inside a character.

        raises: ValueError for an id outside the vocabulary
        """
        ids = list(ids)
        if outside := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise ValueError(f"token ids must be 0..{self.vocab_size - 1}, got {outside[0]}")
        # tiktoken releases the GIL for each call
        return b"".join([self._tokens[i] for i in ids])

    @cached_property
    def _tokens(self) -> list[bytes]:
        """The bytes of each id."""
        return [*sorted(self.ranks, key=self.ranks.__getitem__), END_OF_TEXT.encode()]

    @cached_property
    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes of each id; the end-of-text token stands for none."""
        lengths = [0] * self.vocab_size
        for token, rank in self.ranks.items():
            lengths[rank] = len(token)
        return lengths

    @cached_property
    def longest_token(self) -> int:
        """UTF-8 bytes of the longest token."""
        return max(self.byte_lengths)

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs that make the tokens of more than one byte, in merge order."""
        return merges_of(self.ranks)

    def save(self, folder: Path, block_size: int) -> None:
        """Write tokenizer.json and tokenizer_config.json in Hugging Face's GPT-2 layout into an
        existing folder."""
        files = {
            "tokenizer.json": self._hugging_face(),
            "tokenizer_config.json": self._settings(block_size),
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer in a checkpoint folder. raises: TokenizerError for a missing or foreign
        file."""
        path = folder / "tokenizer.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            symbols = content["model"]["vocab"]
            ranks = {
                bytes_of(symbol): rank for symbol, rank in symbols.items() if symbol != END_OF_TEXT
            }
        except FileNotFoundError:
            raise TokenizerError(
                f"no tokenizer.json in {folder}; is it a checkpoint folder?"
            ) from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise TokenizerError(
                f"{path} is no byte-level BPE in Hugging Face's form: {error!r}"
            ) from error
        # 1.0 and True equal 1, but are no ids to tiktoken
        if strange := [rank for rank in symbols.values() if type(rank) is not int]:
            raise TokenizerError(f"{path}: ids must be integers, got {strange[0]!r:.40}")
        if sorted(ranks.values()) != list(range(len(ranks))) or symbols.get(END_OF_TEXT) != len(
            ranks
        ):
            raise TokenizerError(f"{path}: ids must run from 0 without gaps, {END_OF_TEXT} last")
        return cls(_name_of(ranks), dict(sorted(ranks.items(), key=lambda item: item[1])))

    def _hugging_face(self) -> dict[str, object]:
        vocab = {symbols_of(token): rank for token, rank in self.ranks.items()}
        special = dict(id=self.eot_id, content=END_OF_TEXT, special=True)
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
        byte_level = dict(
            type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True
        )
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [special | flags],
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocab | {END_OF_TEXT: self.eot_id},
                "merges": [[symbols_of(left), symbols_of(right)] for left, right in self.merges],
            },
        }

    def _settings(self, block_size: int) -> dict[str, object]:
        return {
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": block_size,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            **{name: END_OF_TEXT for name in ("bos_token", "eos_token", "unk_token")},
        }


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The pair that makes each token of more than one byte, in merge order.

    A token's pair is what is left when only the tokens ranked before it may merge.
    raises: TokenizerError where some token cannot be made from two others
    """
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _merge_below(token, rank, ranks)
        if len(parts) != 2:
            raise TokenizerError(
                f"token {token!r} (id {rank}) is not made of two earlier tokens but of {parts}"
            )
        merges.append((parts[0], parts[1]))
    return merges


def _merge_below(token: bytes, limit: int, ranks: dict[bytes, int]) -> list[bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        candidates = [(ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1)]
        rank, i = min(candidates, default=(limit, 0))
        if rank >= limit:
            return parts
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _name_of(ranks: dict[bytes, int]) -> str:
    if len(ranks) == 256:
        return "bytes"
    return "gpt2" if len(ranks) == 50256 else "bpe"


def _printable_bytes() -> dict[int, str]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up."""
    itself = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in itself]
    return {byte: chr(byte) for byte in itself} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


_SYMBOL_OF_BYTE = _printable_bytes()
_BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in _SYMBOL_OF_BYTE.items()}


def symbols_of(token: bytes) -> str:
    """A token in GPT-2's alphabet, as tokenizer.json spells it."""
    return "".join(_SYMBOL_OF_BYTE[byte] for byte in token)


def bytes_of(symbols: str) -> bytes:
    """The token that tokenizer.json spells so. raises: KeyError for a foreign symbol"""
    return bytes(_BYTE_OF_SYMBOL[symbol] for symbol in symbols)
