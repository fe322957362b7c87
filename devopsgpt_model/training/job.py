"""A training job: settings plus the folders to work on, as one JSON file.

Whoever launches training (the Dagster asset, the command line, a person on a GPU machine) writes
this file; `train.py` reads nothing else.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from devopsgpt_model.atomic import write_json
from devopsgpt_model.config import TrainingConfig, training_config

FAILURE_FILE = "failure.txt"  # in the job's out folder: why the trainer ended without a checkpoint
HEARTBEAT_FILE = "heartbeat"  # in the job's out folder, touched by a launcher on another machine


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What to train, on what, and where to put it."""

    config: TrainingConfig

    bins: Path
    """Folder of token bins; the tokenizer lies in it."""

    out: Path
    """Folder for the run's state, metrics.jsonl, the best weights as `checkpoint/`, and result.json
    at its good end."""

    init_checkpoint: Path | None = None
    """Checkpoint folder to start from; None with init_from=scratch."""

    data_version: str = ""
    """Data version of the bins, for training.json."""

    code_version: str = ""
    """Version of the code that launched the job, for training.json."""

    mlflow_tracking_uri: str = ""
    """MLflow server to report to; empty for none."""

    mlflow_run_id: str = ""
    """The run there that the metrics belong to."""

    parent_pid: int = 0
    """Process that the trainer must not outlive; 0 for none."""

    heartbeat_s: float = 0.0
    """Seconds that the trainer goes on while nobody touches the file `heartbeat` in `out`; 0 for
    ever."""

    def __post_init__(self) -> None:
        if (self.init_checkpoint is None) != (self.config.init_from == "scratch"):
            raise ValueError(
                f"init_from {self.config.init_from!r} and init_checkpoint {self.init_checkpoint} "
                "disagree: "
                "scratch has no checkpoint folder, everything else has one"
            )

    def write(self, path: Path) -> None:
        """Write the job as JSON, whole or not at all."""
        content = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(self).items()
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "TrainingJob":
        """raises: ValueError for a file that is missing, no JSON, or has unknown or bad settings"""
        try:
            content = json.loads(path.read_text())
            config = training_config(content.pop("config"))
            bins, out, init = (content.pop(name) for name in ("bins", "out", "init_checkpoint"))
            return cls(
                config=config,
                bins=Path(bins),
                out=Path(out),
                init_checkpoint=Path(init) if init else None,
                **content,
            )
        except FileNotFoundError:
            raise ValueError(f"no training job at {path}") from None
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no training job: {error!r}") from error
