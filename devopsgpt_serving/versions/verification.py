"""Whether the files of a version are what its manifest says, and what they tell of its making."""

import json
import math
from pathlib import Path
from typing import Any

from devopsgpt_model.atomic import file_sha256
from devopsgpt_serving.errors import DamagedVersion

MAX_MANIFEST_BYTES = 1_000_000
MAX_FILES = 100
MAX_NESTING = 50
# weights' memory is estimated before they are read; JSON takes up to 20 times its size
MAX_TEXT_BYTES = 16_000_000


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """File names of a version with sha256 and size. raises: DamagedVersion for one that is no
    manifest of ours"""
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise DamagedVersion(
                f"manifest.json has at most {MAX_MANIFEST_BYTES} bytes, got {path.stat().st_size}"
            )
        files = json.loads(path.read_text())["files"]
        for name, facts in files.items():
            _check_entry(name, facts)
    except FileNotFoundError:
        raise DamagedVersion("the version has no manifest.json; publish it again") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedVersion):
            raise
        raise DamagedVersion(f"manifest.json is damaged: {error!r:.200}") from error
    if not 0 < len(files) <= MAX_FILES:
        raise DamagedVersion(
            f"manifest.json must list 1..{MAX_FILES} files, got {len(files)}; publish the version "
            "again"
        )
    return dict(files)


def _check_entry(name: str, facts: dict[str, Any]) -> None:
    parts = name.split("/")
    if (
        len(parts) != 2
        or parts[0] != "model"
        or parts[1].startswith(".")
        or "\\" in name
        or not name.isprintable()
    ):
        raise DamagedVersion(f"manifest.json may list files model/<name> only, got {name!r:.100}")
    if not isinstance(facts["sha256"], str) or type(facts["size"]) is not int or facts["size"] < 0:
        raise DamagedVersion(
            f"manifest.json needs sha256 and size of {name:.100}, got {facts!r:.100}"
        )
    if not name.endswith(".safetensors") and facts["size"] > MAX_TEXT_BYTES:
        raise DamagedVersion(
            f"{name:.100} may have at most {MAX_TEXT_BYTES} bytes, manifest.json says "
            f"{facts['size']}"
        )


def read_lineage(folder: Path) -> dict[str, Any]:
    """What a verified version recorded of its making; empty for one from before that was recorded.

    raises: DamagedVersion for one that is no JSON object
    """
    path = folder / "model" / "lineage.json"
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        _check_answerable(lineage)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise DamagedVersion(
            f"model/lineage.json is damaged: {error}; publish the version again"
        ) from error
    if not isinstance(lineage, dict):
        raise DamagedVersion(f"model/lineage.json must be an object, got {type(lineage).__name__}")
    return lineage


def _check_answerable(value: Any, depth: int = 0) -> None:
    """raises: ValueError for what no answer can hold: infinite numbers, halves of surrogate pairs,
    nesting without end"""
    if depth > MAX_NESTING:
        raise ValueError(f"it may be nested {MAX_NESTING} deep")
    if isinstance(value, dict | list):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_answerable(part, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {value}")
    elif isinstance(value, str):
        value.encode()


def check_files(folder: Path, manifest: dict[str, dict[str, Any]]) -> None:
    """raises: DamagedVersion for a file that is missing, too short, too long or altered"""
    for name, facts in manifest.items():
        path = folder / name
        if not path.is_file():
            raise DamagedVersion(f"{name} is missing")
        if path.stat().st_size != facts["size"]:
            raise DamagedVersion(
                f"{name} should have {facts['size']} bytes and has {path.stat().st_size}"
            )
        if (found := file_sha256(path)) != facts["sha256"]:
            raise DamagedVersion(
                f"{name} should have sha256 {facts['sha256'][:12]}... and has {found[:12]}..."
            )
