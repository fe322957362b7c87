"""A version of the registry as files for other programs: its folder, or one GGUF file."""

import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_pipeline.registry.version_lineage import find_version
from devopsgpt_pipeline.tracking.client import MODEL_NAME
from devopsgpt_pipeline.tracking.versions import fetch_version


def export_version(
    client: MlflowClient, name: str, destination: Path | None = None, gguf: str | None = None
) -> Path:
    """Fetch a version, check it against its manifest and write it out. returns: where it lies

    name: its number, or an alias; destination: `devopsgpt-<version>` in the current folder where
    None, with `.gguf` behind it for a GGUF file; gguf: that file's precision
    raises: NoSuchModel; ValueError for a destination that exists, or a version that is damaged in
    the registry; RuntimeError where the package gguf is missing
    """
    version = str(find_version(client, name).version)
    suffix = "" if gguf is None else ".gguf"
    destination = destination or Path(f"{MODEL_NAME}-{version}{suffix}")
    if destination.exists():
        raise ValueError(f"{destination} exists already; name another place, or remove it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".devopsgpt-", dir=destination.parent) as folder:
        fetched = fetch_version(client, version, Path(folder))
        if gguf is None:
            shutil.move(fetched, destination)
        else:
            _write_gguf(fetched, destination, gguf, f"{MODEL_NAME}-{version}")
    return destination


def _write_gguf(folder: Path, destination: Path, precision: str, name: str) -> None:
    try:
        from devopsgpt_pipeline.registry.gguf_file import write_gguf
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"a GGUF file needs the package {error.name}: pip install 'devopsgpt[gguf]'"
        ) from error
    write_gguf(load_checkpoint(folder), destination, precision, name)
