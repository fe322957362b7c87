"""Datasets: the token bins of all books, and those of other texts."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from devopsgpt_model.token_bins import TokenBinsMeta
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets.books import make_tokenizer, origin_of, split_chapters, write_books
from devopsgpt_pipeline.datasets.folder import write_folder
from devopsgpt_pipeline.datasets.shakespeare import fetch_shakespeare, write_shakespeare
from devopsgpt_pipeline.defs import OWNERS
from devopsgpt_pipeline.defs.resources import HomeResource, WebResource
from devopsgpt_pipeline.defs.sources import key_of
from devopsgpt_pipeline.home import BOOKS
from devopsgpt_pipeline.hub.source import BY_HAND, REPOSITORY, REVISION, Source
from devopsgpt_pipeline.profiles import Profile
from devopsgpt_pipeline.sources.books import Book

TOKEN_BINS = dg.AssetKey(f"token_bins_{BOOKS}")


def build_token_bins(profile: Profile, books: list[Book]) -> dg.AssetsDefinition:
    """The dataset of all books, its launchpad filled with the profile's values."""
    settings_class = create_model(
        "TokenBinsSettings",
        __base__=dg.Config,
        tokenizer=(
            str,
            Field(
                profile.tokenizer, description='"gpt2", or "bpe" for one trained on the chapters.'
            ),
        ),
        vocab_size=(
            int,
            Field(profile.vocab_size, description="Ids of a trained BPE; 257 is plain bytes."),
        ),
        held_out_fraction=(
            float,
            Field(
                profile.held_out_fraction,
                description="Share of chapters kept from training, 0 to 1.",
            ),
        ),
    )

    @dg.asset(
        key=TOKEN_BINS,
        deps=[key_of("clean_text", book) for book in books],
        group_name="datasets",
        kinds={"numpy", "tiktoken"},
        owners=OWNERS,
        code_version=f"2-{profile.name}",
    )
    def token_bins(
        config: settings_class,  # type: ignore[valid-type]
        home: HomeResource,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """train.bin and val.bin: uint16 token ids of whole chapters, split by a hash of book and
        slug."""
        names = [book.name for book in books]
        settings = config.model_dump()  # type: ignore[attr-defined]
        documents = split_chapters(home.folders.text, names, settings["held_out_fraction"])
        tokenizer = make_tokenizer(settings["tokenizer"], settings["vocab_size"], documents)
        folder = home.folders.tokens / BOOKS
        meta = write_books(
            folder, documents, tokenizer, origin_of(home.folders.text, books, documents)
        )
        home.folders.remove_old_books()
        return dg.MaterializeResult(
            data_version=dg.DataVersion(meta.data_version), metadata=_metadata(meta, folder)
        )

    return token_bins


@dg.asset(
    group_name="datasets", kinds={"numpy", "tiktoken"}, owners=OWNERS, code_version="1", pool="web"
)
def token_bins_shakespeare(home: HomeResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Tiny shakespeare in GPT-2 tokens, for the preset finetune_shakespeare; made on demand
    only."""
    text = fetch_shakespeare(home.folders.text / "tinyshakespeare.txt")
    folder = home.folders.tokens / "shakespeare"
    meta = write_shakespeare(folder, text, Tokenizer.gpt2())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(meta.data_version), metadata=_metadata(meta, folder)
    )


class OpenWebTextSettings(dg.Config):
    """How much of OpenWebText is encoded, and from where."""

    documents: int = Field(
        default=0, ge=0, description="Documents from the beginning; 0 takes all 8 million, 54 GB."
    )
    repository: str = Field(
        default=REPOSITORY, description="Dataset on the Hugging Face hub, in parquet shards."
    )
    revision: str = Field(default=REVISION, description="Commit of the repository.")


@dg.asset(
    group_name="datasets", kinds={"numpy", "tiktoken"}, owners=OWNERS, code_version="1", pool="web"
)
def token_bins_openwebtext(
    context: dg.AssetExecutionContext,
    config: OpenWebTextSettings,
    home: HomeResource,
    web: WebResource,
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """What GPT-2's training text is thought to be like, in GPT-2 tokens, nanoGPT's split; made on
    demand only."""
    from devopsgpt_pipeline.datasets.openwebtext import write_openwebtext

    folder, work = home.folders.tokens / "openwebtext", home.folders.downloads / "openwebtext"
    source = Source(
        config.documents,
        config.repository,
        config.revision,
        web.hub_endpoint or None,
        by_hand=work / BY_HAND,
    )
    meta = write_openwebtext(folder, work, source, Tokenizer.gpt2(), context.log.info)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(meta.data_version), metadata=_metadata(meta, folder)
    )


def build_token_bins_folder(name: str, texts: Path) -> dg.AssetsDefinition:
    """A dataset out of a folder of text files that the configuration names."""

    @dg.asset(
        key=f"token_bins_{name}",
        description=f"Text files below {texts} in GPT-2 tokens, a tenth of them held out; made on "
        "demand only.",
        group_name="datasets",
        kinds={"numpy", "tiktoken"},
        owners=OWNERS,
        code_version="1",
    )
    def token_bins_folder(home: HomeResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
        folder = home.folders.tokens / name
        meta = write_folder(folder, name, texts, Tokenizer.gpt2())
        return dg.MaterializeResult(
            data_version=dg.DataVersion(meta.data_version), metadata=_metadata(meta, folder)
        )

    return token_bins_folder


def _metadata(meta: TokenBinsMeta, folder: Path) -> dict[str, Any]:
    train, val = meta.splits["train"], meta.splits["val"]
    rows = [
        dg.TableRecord(
            {
                "split": name,
                "documents": len(split.documents),
                "tokens": split.tokens,
                "text_bytes": split.text_bytes,
            }
        )
        for name, split in meta.splits.items()
    ]
    return {
        "dagster/row_count": train.tokens + val.tokens,
        "tokenizer": meta.tokenizer,
        "vocab_size": meta.vocab_size,
        "train_tokens": train.tokens,
        "val_tokens": val.tokens,
        "bytes_per_token": train.text_bytes / train.tokens,
        "splits": dg.MetadataValue.table(rows),
        "held_out": dg.MetadataValue.json([name for name, _ in val.documents]),
        "folder": dg.MetadataValue.path(str(folder)),
    }
