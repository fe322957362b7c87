"""A dataset of the Hugging Face hub in parquet shards: its files, and one of them at a time."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url

from devopsgpt_model.atomic import write_json
from devopsgpt_pipeline.hub.download import HubUnavailable, Say, fetch_file, in_short, say_on_stderr
from devopsgpt_pipeline.hub.source import Source


def declared_shards(place: Path, source: Source) -> dict[str, str | None]:
    """The repository's parquet files in order, with the sha256 that the hub has for large ones.

    place: a folder that keeps the answer
    raises: HubUnavailable; ValueError for a repository without parquet files, or not all of them
    """
    if names := _names_by_hand(source):
        if not source.documents:
            _check_whole(names, source)
        return dict.fromkeys(names)
    path = place / "shards.json"
    if not path.exists():
        api = HfApi(endpoint=source.endpoint)
        try:
            info = api.dataset_info(
                source.repository, revision=source.revision, files_metadata=True
            )
        except Exception as error:  # its HTTP library's errors beside the hub's own
            raise _unavailable(source, in_short(error)) from error
        files = sorted(info.siblings or [], key=lambda file: file.rfilename)
        shards = {
            file.rfilename: file.lfs and file.lfs.sha256
            for file in files
            if file.rfilename.endswith(".parquet")
        }
        _check_whole(list(shards), source)
        write_json(path, shards)
    declared: dict[str, str | None] = json.loads(path.read_text())
    return declared


def _check_whole(names: list[str], source: Source) -> None:
    """raises: ValueError without a shard, or without one that the names count: -00003-of-00080"""
    counted = [
        int(match[1]) for name in names if (match := re.search(r"-of-(\d+)\.parquet$", name))
    ]
    if not names or (counted and max(counted) != len(names)):
        raise ValueError(
            f"{source.repository} has {len(names)} parquet files at revision {source.revision}"
            f"{f', their names say {max(counted)}' if counted else ''}; name another revision"
        )


def _names_by_hand(source: Source) -> list[str]:
    return sorted(path.name for path in source.by_hand.glob("*.parquet")) if source.by_hand else []


@contextmanager
def one_shard(
    name: str, sha256: str | None, place: Path, source: Source, say: Say = say_on_stderr
) -> Iterator[Path]:
    """A shard's file within the block: one put there by hand stays, one that is fetched is removed.

    raises: HubUnavailable; ValueError for a file that is not what the hub declares
    """
    if source.by_hand and (source.by_hand / name).exists():
        yield source.by_hand / name
        return
    url = hf_hub_url(
        source.repository,
        name,
        repo_type="dataset",
        revision=source.revision,
        endpoint=source.endpoint,
    )
    parquet = place / name
    try:
        fetch_file(url, parquet, source.repository, sha256, say)
    except HubUnavailable as error:
        raise _unavailable(source, str(error)) from error
    yield parquet
    parquet.unlink()


def _unavailable(source: Source, reason: str) -> HubUnavailable:
    place = (
        f", or put the parquet files of revision {source.revision} into {source.by_hand}"
        if source.by_hand
        else ""
    )
    return HubUnavailable(
        f"{source.repository} could not be fetched from the Hugging Face hub "
        f"({reason}); what was encoded is kept, materialize token_bins_openwebtext again once "
        f"there is a network{place}"
    )
