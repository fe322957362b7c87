"""From a verified folder to a model that answers: load, lay out the cache, warm up, generate
once."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from devopsgpt_model.checkpoint import CheckpointError, load_checkpoint
from devopsgpt_model.device import choose_device
from devopsgpt_model.gpt import GPT
from devopsgpt_model.threads import keep_to_quota
from devopsgpt_serving.compute.captured import CapturedRunner
from devopsgpt_serving.compute.native.build import NotCompiled
from devopsgpt_serving.compute.native.runner import NativeRunner, able
from devopsgpt_serving.compute.precision import Precision, choose_precision, of_torch
from devopsgpt_serving.compute.runner import EagerRunner, Runner
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.version import Version

log = logging.getLogger(__name__)


def loader(device: str, precision: str, rows: int) -> Callable[[Version, Path], LocalModel]:
    """How versions are loaded by this service.

    precision: "auto" or a number format
    raises: ValueError for a device that is not there, or does not have the format
    """
    chosen = str(choose_device(device))
    format = choose_precision(precision, torch.device(chosen))
    keep_to_quota()  # before the threads that load and compute begin: they take the number over
    log.info(
        "computing",
        extra={"device": chosen, "precision": format, "threads": torch.get_num_threads()},
    )

    def load(version: Version, folder: Path) -> LocalModel:
        # OpenMP keeps a team of threads for each thread that ever computed. With more of them than
        # processors they sleep between any two operations instead of spinning, so the engine's own
        # must be the only one that stays.
        with ThreadPoolExecutor(1, "loading") as passing:
            return passing.submit(read, version, folder).result()

    def read(version: Version, folder: Path) -> LocalModel:
        checkpoint = load_checkpoint(folder / "model", chosen)
        loaded = LocalModel(
            version, choose_runner(checkpoint.model, rows, format), checkpoint.tokenizer
        )
        warm_up(loaded)
        return loaded

    return load


def choose_runner(model: GPT, rows: int, precision: Precision) -> Runner:
    """The fastest that computes this model in this number format here. Takes the model over."""
    device = model.wte.weight.device
    if able(model.config, precision, device):
        try:
            return NativeRunner(model, rows, precision)
        except NotCompiled as problem:
            log.warning(
                "no compiled code for this processor is here: half as fast as it could be",
                extra={
                    "problem": str(problem),
                    "remedy": "install g++, or run devopsgpt_serving/compute/native/build.py",
                },
            )
    if precision not in of_torch(device):
        log.warning(
            "only compiled code has this format here, and not for this shape: float32 is taken",
            extra={"precision": precision},
        )
        precision = "float32"
    return (CapturedRunner if device.type == "cuda" else EagerRunner)(model, rows, precision)


def warm_up(loaded: LocalModel) -> None:
    """Generate once with every row. raises: CheckpointError for weights that yield no numbers"""
    runner, eot = loaded.runner, loaded.tokenizer.eot_id
    logits = runner.prefill(0, [eot], 0, every=False)
    if runner.block_size > 1:
        logits = runner.decode(
            [int(logits[0].argmax())] + [eot] * (runner.rows - 1), [1] + [0] * (runner.rows - 1)
        )
    if not torch.isfinite(logits).all():
        raise CheckpointError(
            f"version {loaded.version.number}: the weights yield logits that are no numbers"
        )
