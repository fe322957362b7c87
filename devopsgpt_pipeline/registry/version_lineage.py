"""Lineage, both ways: from a version to what it was made of, and from a chapter to the versions
that learned it; and as `devopsgpt lineage` prints it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.text.corpus import NoChapters, read_texts
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, aliases_by_name, model_versions
from devopsgpt_pipeline.tracking.versions import fetch_document
from devopsgpt_pipeline.training.lineage import LINEAGE_FILE

SHORT = 12  # hexadecimal digits of a hash that people tell apart


class NoSuchModel(ValueError):
    """A version or an alias that the registry does not have."""


@dataclass(frozen=True)
class VersionLineage:
    """A version's aliases and tags, and what it recorded of its making; None for one from before
    that was recorded."""

    version: str
    aliases: list[str]
    tags: dict[str, str]
    made_of: dict[str, Any] | None

    def chapter(self, book: str, slug: str) -> dict[str, str] | None:
        """What the version read of a chapter: its hashes and its split; None where it did not know
        it."""
        chapters = (self.made_of or {}).get("chapters", [])
        return next((one for one in chapters if (one["book"], one["slug"]) == (book, slug)), None)


def lineage_of(client: MlflowClient, name: str = CHAMPION) -> VersionLineage:
    """What a version was made of. name: its number, or an alias

    raises: NoSuchModel; ValueError for a file that is damaged in the registry
    """
    return _read(client, find_version(client, name), aliases_by_name(client))


def find_version(client: MlflowClient, name: str) -> ModelVersion:
    """A version by its number, or an alias. raises: NoSuchModel"""
    aliases = aliases_by_name(client)
    try:
        found = client.get_model_version(MODEL_NAME, aliases.get(name, name))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        known = (
            ", ".join(f"{alias} (version {version})" for alias, version in sorted(aliases.items()))
            or "none"
        )
        raise NoSuchModel(
            f"{MODEL_NAME} has no version or alias {name!r}; its aliases are {known}"
        ) from error
    return found


def all_lineages(client: MlflowClient) -> list[VersionLineage]:
    """Of every version in the registry, newest first."""
    aliases = aliases_by_name(client)
    return [_read(client, found, aliases) for found in model_versions(client)]


def _read(client: MlflowClient, found: Any, aliases: dict[str, str]) -> VersionLineage:
    version = str(found.version)
    text = fetch_document(client, version, LINEAGE_FILE)
    names = sorted(alias for alias, at in aliases.items() if at == version)
    return VersionLineage(version, names, dict(found.tags), json.loads(text) if text else None)


class UnknownChapter(ValueError):
    """A chapter that neither a version nor the archive knows."""


def facts(lineage: VersionLineage) -> list[tuple[str, str]]:
    """A version's lineage in lines (name, value), its chapters left out."""
    made_of, tags = lineage.made_of, lineage.tags
    if made_of is None:
        return [
            ("recorded", "tags only: the version is from before lineage was kept"),
            *sorted(tags.items()),
        ]
    data, code, runs = made_of["data"], made_of["code"], made_of["runs"]
    return [
        ("data", f"{data['dataset']}, data version {data['data_version']}"),
        (
            "tokens",
            f"{data['train_tokens']:,} train, {data['val_tokens']:,} held out, {data['tokenizer']} "
            "tokenizer",
        ),
        *(
            (f"text of {book['name']}", f"{book['text_version'][:16]}, {book['licence']}")
            for book in made_of["books"]
        ),
        ("started from", _start(made_of["initial_weights"])),
        ("settings", " ".join(f"{name}={value}" for name, value in made_of["settings"].items())),
        ("code", f"version {code['version']}, git commit {code['git_commit']}"),
        ("MLflow run", runs["mlflow"]),
        *((f"Dagster run of {asset}", run_id) for asset, run_id in runs["dagster"].items()),
        *((name, tags[name]) for name in ("decision_reason", "promotion_reason") if name in tags),
    ]


def _start(weights: dict[str, str]) -> str:
    """gpt2, of openai-community/gpt2 at 607a30d78..., sha256 248dfc39..."""
    parts = [weights["name"] + (f" version {weights['version']}" if "version" in weights else "")]
    if "repository" in weights:
        parts.append(f"of {weights['repository']} at {weights['revision'][:SHORT]}")
    if "sha256" in weights:
        parts.append(f"sha256 {weights['sha256'][:SHORT]}")
    return ", ".join(parts)


def chapters(lineage: VersionLineage) -> list[dict[str, str]]:
    """What a version read, a row for each chapter."""
    return [
        {
            "chapter": f"{one['book']}/{one['slug']}",
            "split": "train" if one["split"] == "train" else "held out",
            "content": one["content_sha256"][:SHORT] or "not recorded",
            "title": one["title"],
        }
        for one in (lineage.made_of or {}).get("chapters", [])
    ]


def versions_of_chapter(
    lineages: list[VersionLineage], chapter: str, archives: Path, texts: Path
) -> list[dict[str, Any]]:
    """The versions that knew a chapter, and whether it is the same today. chapter: book/slug

    raises: UnknownChapter
    """
    book, _, slug = chapter.partition("/")
    today = _today(archives / book, texts / book, slug)
    known = [(one, found) for one in lineages if (found := one.chapter(book, slug)) is not None]
    if not known and today is None:
        names = sorted({row["chapter"] for one in lineages for row in chapters(one)})
        told = (
            f"such as {names[0]}"
            if names
            else "once a version is registered that records its chapters"
        )
        raise UnknownChapter(
            f"no version and no archive knows {chapter!r}; name a chapter as book/slug, {told}"
        )
    return [
        {
            "version": one.version,
            "aliases": ", ".join(one.aliases) or "-",
            "learned": "yes" if found["split"] == "train" else "no, held out",
            "content_sha256": found["content_sha256"],
            "archive": _compared(found, today),
        }
        for one, found in known
    ]


def _today(archive: Path, text: Path, slug: str) -> dict[str, str] | None:
    """Hashes of the chapter that is in use now; None where the archive has none of this name."""
    if not archive.is_dir():
        return None
    rows = {row.slug: row.content_sha256 for row in ChapterArchive(archive).rows()}
    if slug not in rows:
        return None
    try:
        cleaned = {row.slug: row.sha256 for row, _ in read_texts(text)}
    except NoChapters:
        cleaned = {}
    return {"content_sha256": rows[slug], "text_sha256": cleaned.get(slug, "")}


def _compared(found: dict[str, str], today: dict[str, str] | None) -> str:
    if today is None:
        return "has it no more"
    if found["content_sha256"] == today["content_sha256"]:
        return "the same"
    return (
        "another page, the same text" if found["text_sha256"] == today["text_sha256"] else "differs"
    )
