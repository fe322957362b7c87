"""Lineage, both ways: from a version to what it was made of, and from a chapter to the versions
that learned it."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME, aliases_by_name, model_versions
from devopsgpt_pipeline.tracking.versions import fetch_document

if TYPE_CHECKING:
    from mlflow import MlflowClient

LINEAGE_FILE = "lineage.json"


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


def lineage_of(client: "MlflowClient", name: str = CHAMPION) -> VersionLineage:
    """What a version was made of. name: its number, or an alias

    raises: NoSuchModel; ValueError for a file that is damaged in the registry
    """
    from mlflow.exceptions import MlflowException

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
    return _read(client, found, aliases)


def all_lineages(client: "MlflowClient") -> list[VersionLineage]:
    """Of every version in the registry, newest first."""
    aliases = aliases_by_name(client)
    return [_read(client, found, aliases) for found in model_versions(client)]


def _read(client: "MlflowClient", found: Any, aliases: dict[str, str]) -> VersionLineage:
    version = str(found.version)
    text = fetch_document(client, version, LINEAGE_FILE)
    names = sorted(alias for alias, at in aliases.items() if at == version)
    return VersionLineage(version, names, dict(found.tags), json.loads(text) if text else None)
