"""The state of a run on disk: what a killed run needs to go on as if nothing had happened.

One safetensors file each for the state and for the best weights so far, replaced in one move: a
kill at any moment leaves the last good one.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from devopsgpt_model.gpt import GPT
from devopsgpt_model.training.muon import Optimizer
from devopsgpt_model.training.ranks import fill, whole

OPTIMIZER = "optimizer."  # what the name of a weight's moment begins with
MODEL = "model."  # what a weight's name begins with in a state
# the same of the best weights, where they are others; they go to a file of their own
BEST = "best."


@dataclass
class TrainingProgress:
    """Where a run stands. best_val_loss: nats/token, best so far; start_val_loss: before the first
    step;
    pending_losses: of steps that were trained but not reported yet."""

    step: int = 0
    start_val_loss: float = float("nan")
    best_val_loss: float = float("inf")
    best_step: int = 0
    evaluations_without_gain: int = 0
    evaluated_step: int = -1
    pending_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file in one move. raises: OSError on a full disk, the earlier file
    untouched"""
    # a folder: safetensors adds a temporary file of its own
    staging = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)  # what a killed save left
    try:
        staging.mkdir()
        save_file(tensors, staging / path.name, metadata=metadata)
        os.replace(staging / path.name, path)
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"{path} could not be written: {error}; the one before it is whole, make room and "
            "start again"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def state_tensors(model: GPT, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Weights and optimizer state, whole, one at a time; every rank must go through all of them.

    raises: RuntimeError where the optimizer has a state of some trained weights and not of others
    """
    trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    without = [name for name, each in trained if not optimizer.state.get(each)]
    if 0 < len(without) < len(trained):
        raise RuntimeError(
            f"a state holds the moments of every trained weight; {_some(without)} have none, so a "
            "run that goes on from it would not be the same. The state before it is kept"
        )
    for name, parameter in model.named_parameters():
        yield f"{MODEL}{name}", whole(parameter.detach())
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{OPTIMIZER}{name}.{key}", whole(value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def save_best(path: Path, tensors: dict[str, Tensor], step: int, prefix: str = MODEL) -> None:
    """The weights alone, those whose names begin with the prefix. raises: as save_tensors"""
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    save_tensors(path, weights, {"step": str(step)})


def state_metadata(progress: TrainingProgress, job: str, optimizer: str) -> dict[str, str]:
    """job: fingerprint of the settings, so that a state never continues another job"""
    return {"progress": json.dumps(asdict(progress)), "job": job, "optimizer": optimizer}


def read_progress(path: Path, job: str, optimizer: str) -> TrainingProgress | None:
    """Where a run stands; None where there is no state of this job.

    raises: ValueError for a damaged file, and for the state of another optimizer
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove it to start this training from its beginning"
        ) from error
    # one without a name is from before there was a choice
    if (saved := metadata.get("optimizer", "adamw")) != optimizer:
        raise ValueError(
            f"{path} was saved by a training with optimizer={saved}, these settings say "
            f"optimizer={optimizer}; change the setting back, or start in an empty folder"
        )
    return (
        TrainingProgress(**json.loads(metadata["progress"])) if metadata.get("job") == job else None
    )


def restore(path: Path, model: GPT, optimizer: Optimizer) -> None:
    """Weights and moments of a state, in place; a finished run's state has none. With shards every
    rank must ask.

    raises: ValueError for a state that has moments of some trained weights and not of others
    """
    tensors = load_file(path)
    known = {
        key.removeprefix(OPTIMIZER).rpartition(".")[0]
        for key in tensors
        if key.startswith(OPTIMIZER)
    }
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    if known and (without := sorted(trained - known)):
        raise ValueError(
            f"{path} has no moments of {_some(without)}: what goes on from it would be another "
            "run; remove it to start this training from its beginning"
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters() if tensors else ():
            parameter.copy_(fill(parameter, tensors[f"{MODEL}{name}"]))
            prefix = f"{OPTIMIZER}{name}."
            state = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            if state:
                optimizer.state[parameter] = {
                    key: value.to(parameter.device) if key == "step" else fill(parameter, value)
                    for key, value in state.items()
                }
