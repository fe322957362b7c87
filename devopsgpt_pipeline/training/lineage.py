"""What a model was made of: recorded when its training begins, completed when it is registered,
part of the version.

A version's `model/lineage.json` names chapters with their hashes, settings, initial weights, code
and runs; the promotion's decision stays on the version as tags, because it comes later. No secrets:
addresses without a login.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from devopsgpt_model.atomic import file_sha256, write_json
from devopsgpt_model.config import GPT2_SIZES, TrainingConfig
from devopsgpt_model.token_bins import TokenBinsMeta
from devopsgpt_model.tracking import without_login
from devopsgpt_pipeline.hub.pretrained import PRETRAINED
from devopsgpt_pipeline.tracking.client import CHAMPION

LINEAGE_FILE = "lineage.json"
CURVE_FILE = "loss_curve.png"


def lineage_of_training(
    meta: TokenBinsMeta,
    config: TrainingConfig,
    init: Path | None,
    code: dict[str, str],
    runs: dict[str, Any],
) -> dict[str, Any]:
    """What is known when training begins. init: folder of the initial weights; runs: ids, in MLflow
    and in Dagster"""
    return {
        "data": data_of(meta),
        "books": [_without_logins(book) for book in meta.origin.get("books", [])],
        "chapters": [_without_logins(chapter) for chapter in meta.origin.get("chapters", [])],
        "settings": asdict(config),
        "initial_weights": initial_weights(config.init_from, init),
        "code": code,
        "runs": runs,
    }


def write_lineage(folder: Path, lineage: dict[str, Any]) -> None:
    """Into the folder of a training, beside its checkpoint."""
    write_json(folder / LINEAGE_FILE, lineage)


def data_of(meta: TokenBinsMeta) -> dict[str, Any]:
    """The token bins, by hash and size."""
    counts = {
        f"{split}_{name}": getattr(facts, name)
        for split, facts in meta.splits.items()
        for name in ("tokens", "text_bytes", "sha256")
    }
    names = ("dataset", "data_version", "tokenizer", "vocab_size")
    return {name: getattr(meta, name) for name in names} | counts


def initial_weights(init_from: str, init: Path | None) -> dict[str, str]:
    """What training started from: a name, and for weights their hash and where they come from."""
    if init is None:
        return {"name": init_from}
    facts = {"name": init_from, "sha256": file_sha256(init / "model.safetensors")}
    if init_from in GPT2_SIZES:
        source = PRETRAINED[init_from]
        facts |= {"repository": source.repository, "revision": source.revision}
    if init_from == CHAMPION:
        # training_job keeps it in champion-<version>/model
        facts["version"] = init.parent.name.rpartition("-")[2]
    return facts


def completed(checkpoint: Path, dagster_runs: dict[str, str]) -> dict[str, Any]:
    """The lineage that a checkpoint carries, with the Dagster runs that followed its training.

    raises: ValueError for a checkpoint without one
    """
    try:
        lineage: dict[str, Any] = json.loads((checkpoint / LINEAGE_FILE).read_text())
        lineage["runs"]["dagster"] |= dagster_runs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the checkpoint in {checkpoint} does not tell what it was made of ({error}); "
            "materialize `finetuned_checkpoint` again"
        ) from error
    return lineage


def as_text(lineage: dict[str, Any]) -> str:
    """The file's content."""
    return json.dumps(lineage, indent=1, ensure_ascii=False) + "\n"


def _without_logins(facts: dict[str, str]) -> dict[str, str]:
    return {
        key: without_login(value) if key.endswith("url") else value for key, value in facts.items()
    }
