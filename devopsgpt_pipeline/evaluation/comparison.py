"""Measuring a fine-tuned checkpoint against the weights that it started from, on the same held-out
text."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devopsgpt_model.config import training_config
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.evaluation.measure import (
    ENCODED_TOKENS,
    NANOGPT_BATCHES,
    Measurement,
    datasets_at_hand,
    measure,
)
from devopsgpt_pipeline.evaluation.memorization import memorization
from devopsgpt_pipeline.evaluation.published import PROTOCOL_DATASET

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from devopsgpt_model.checkpoint import Checkpoint

COMPARED = ("val_loss", "perplexity", "bits_per_byte")
SAMPLE_PROMPTS = ("An alert should", "When a release goes wrong,", "The backup")
SAMPLE_TOKENS = 80


@dataclass(frozen=True)
class Comparison:
    """A checkpoint beside its start. samples: (prompt, text before, text after); memorization:
    0..1;
    elsewhere: start and fine-tuned as measured on every dataset at hand, the one trained on
    included
    """

    checkpoint_sha256: str
    data_version: str
    dataset: str
    start: dict[str, float]
    finetuned: dict[str, float]
    samples: list[tuple[str, str, str]]
    memorization: float
    parameters: int
    elsewhere: list[tuple[dict[str, Any], dict[str, Any]]]

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """raises: ValueError where there is none, or a damaged one"""
        try:
            content = json.loads(path.read_text())
            tuples = {key: [tuple(one) for one in content[key]] for key in ("samples", "elsewhere")}
            return cls(**{**content, **tuples})
        except FileNotFoundError:
            raise ValueError(f"no evaluation at {path}; materialize `evaluation` first") from None
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path} is damaged, materialize `evaluation` again: {error!r}"
            ) from error

    def measurements(self) -> list[tuple[Measurement, Measurement]]:
        """Start and fine-tuned on every dataset that was at hand."""
        return [
            (Measurement(**start), Measurement(**finetuned)) for start, finetuned in self.elsewhere
        ]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def samples_markdown(self) -> str:
        """The samples for people: each prompt, what followed before, and after."""
        parts = []
        for prompt, before, after in self.samples:
            parts += [
                f"### {prompt}",
                "**before**",
                _quoted(prompt + before),
                "**after**",
                _quoted(prompt + after),
            ]
        return "\n\n".join(parts) + "\n"


def compare_with_start(folder: Path, bins: TokenBins, batches: int = NANOGPT_BATCHES) -> Comparison:
    """Evaluate a fine-tuned checkpoint and its start on the held-out split, and let both speak.

    bins: what it was trained on; the datasets beside it show what was forgotten elsewhere
    batches: random ones per split by nanoGPT's protocol, on the dataset of its published table only
    """
    from devopsgpt_model.checkpoint import load_checkpoint
    from devopsgpt_model.device import choose_device
    from devopsgpt_pipeline.tracking.versions import checkpoint_sha256

    finetuned = load_checkpoint(folder, str(choose_device()))
    start = start_of(finetuned)
    at_hand = [TokenBins.open(path) for path in datasets_at_hand(bins.folder.parent)]
    for one in at_hand:  # the one that it was trained on is among them
        one.check()
    measured = {
        one.folder.name: _measure_pair(start, finetuned, one, bins, batches) for one in at_hand
    }
    before, after = (_texts(checkpoint) for checkpoint in (start, finetuned))
    own = measured[bins.folder.name]
    return Comparison(
        checkpoint_sha256=checkpoint_sha256(folder),
        data_version=bins.meta.data_version,
        dataset=bins.meta.dataset,
        start=_numbers(own[0]),
        finetuned=_numbers(own[1]),
        samples=list(zip(SAMPLE_PROMPTS, before, after, strict=True)),
        memorization=memorization(finetuned, bins),
        parameters=finetuned.model.config.parameter_count,
        elsewhere=[(one.as_json(), other.as_json()) for one, other in measured.values()],
    )


def _measure_pair(
    start: "Checkpoint", finetuned: "Checkpoint", other: TokenBins, own: TokenBins, batches: int
) -> tuple[Measurement, Measurement]:
    """Both on one dataset; on their own without a cap, as the gate measures them."""
    batches = batches if other.folder.name == PROTOCOL_DATASET else 0
    most = None if other.folder == own.folder else ENCODED_TOKENS
    return (
        measure("start", start, other, batches, most),
        measure("finetuned", finetuned, other, batches, most),
    )


def metrics_of(finetuned: Measurement, start: Measurement | None) -> dict[str, float]:
    """A fine-tune on a dataset as its MLflow run shows it: val_loss/books, and of its
    start start_val_loss/books."""
    before = (
        {}
        if start is None
        else {f"start_{key}/{start.dataset}": getattr(start, key) for key in COMPARED}
    )
    return finetuned.metrics() | before


def log_measurement(
    client: "MlflowClient",
    run_id: str,
    measured: Measurement,
    start: Measurement | None = None,
    step: int = 0,
) -> None:
    """Log a model on a dataset to its run, and which data it was."""
    from devopsgpt_pipeline.tracking.runs import log_dataset, log_final

    log_final(client, run_id, metrics_of(measured, start), step)
    log_dataset(client, run_id, measured.source(), "evaluation")
    client.set_tag(run_id, f"data_version/{measured.dataset}", measured.data_version)


def start_of(finetuned: "Checkpoint") -> "Checkpoint":
    """The weights that a fine-tuned checkpoint started from, on the same device.

    raises: ValueError where its training.json does not tell, or what it names is gone
    """
    from devopsgpt_model.checkpoint import Checkpoint
    from devopsgpt_model.training.trainer import initial_model

    settings: Any = finetuned.training
    if "config" not in settings:
        raise ValueError(
            "the checkpoint's training.json has no training settings; was it made by fine-tuning?"
        )
    init = Path(settings["init_checkpoint"]) if settings["init_checkpoint"] else None
    model = initial_model(training_config(settings["config"]), init, finetuned.tokenizer.vocab_size)
    return Checkpoint(model.to(finetuned.model.wte.weight.device), finetuned.tokenizer, {})


def _texts(checkpoint: "Checkpoint") -> list[str]:
    from devopsgpt_model.generate import generate_text

    return [
        generate_text(
            checkpoint.model, checkpoint.tokenizer, prompt, SAMPLE_TOKENS, temperature=0.7, top_k=50
        )
        for prompt in SAMPLE_PROMPTS
    ]


def _numbers(measured: Measurement) -> dict[str, float]:
    return {key: getattr(measured, key) for key in (*COMPARED, "tokens", "seconds")}


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())
