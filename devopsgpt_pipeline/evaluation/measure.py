"""One yardstick for every model on every dataset: a full pass, and nanoGPT's random batches for its
published table."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devopsgpt_model.config import in_millions
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.evaluation.published import LOSSES, PROTOCOL_DATASET

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from devopsgpt_model.checkpoint import Checkpoint

# most of a split that are encoded anew: more than OpenWebText's held-out 4.4M
ENCODED_TOKENS = 5_000_000
NANOGPT_BATCHES, NANOGPT_BATCH_SIZE, NANOGPT_BLOCK_SIZE = 500, 8, 1024
TOLERANCE = 0.03  # nats/token between our value and the published one


@dataclass(frozen=True)
class Measurement:
    """A model on a dataset. Losses in nats/token; perplexity, bits_per_byte and tokens are of the
    full held-out pass.

    train_loss: of windows spread evenly over the train split, about as many as the held-out split
    has;
    nanogpt_*: by nanoGPT's protocol, NaN where it was left out; left_out: why, empty where it was
    not
    """

    model: str
    parameters: int
    dataset: str
    data_version: str
    val_loss: float
    train_loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    seconds: float
    nanogpt_val_loss: float = math.nan
    nanogpt_train_loss: float = math.nan
    left_out: str = ""

    def metrics(self) -> dict[str, float]:
        """As MLflow shows them: val_loss/books, bits_per_byte/openwebtext, ... NaN is left out."""
        names = ("val_loss", "train_loss", "perplexity", "bits_per_byte", "tokens", "seconds",
                 "nanogpt_val_loss", "nanogpt_train_loss")  # fmt: skip
        values = {f"{name}/{self.dataset}": float(getattr(self, name)) for name in names}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def source(self) -> dict[str, str]:
        """The data as MLflow knows data: name, digest, source."""
        return {
            "name": self.dataset,
            "digest": self.data_version,
            "source": f"tokens/{self.dataset}",
        }

    @property
    def published(self) -> tuple[float, float] | None:
        """Published train and val loss, where there are some."""
        return LOSSES.get(self.model) if self.dataset == PROTOCOL_DATASET else None

    @property
    def difference(self) -> float:
        """The larger distance from the published losses by their protocol; NaN where nothing can be
        compared."""
        if self.published is None or math.isnan(self.nanogpt_val_loss):
            return math.nan
        ours = (self.nanogpt_train_loss, self.nanogpt_val_loss)
        return max(abs(a - b) for a, b in zip(ours, self.published, strict=True))

    @property
    def agrees(self) -> bool:
        """False only where a loss is further than TOLERANCE from the published one."""
        return not self.difference > TOLERANCE

    def compared(self) -> str:
        """What was measured beside what is published, in a line."""
        if self.published is None:
            return f"nothing is published for {self.model} on {self.dataset}"
        if math.isnan(self.difference):
            return (
                f"nothing to compare with the published {'{}/{}'.format(*self.published)}: "
                f"{self.left_out}"
            )
        ours = f"{self.nanogpt_train_loss:.3f}/{self.nanogpt_val_loss:.3f}"
        theirs = "{}/{}".format(*self.published)
        return f"train/val loss {ours}, published {theirs}, by at most {self.difference:.3f} apart"

    def row(self) -> dict[str, Any]:
        """A row of the original README's table: its losses by its protocol where measured, then
        what we add.

        What is published was measured by the protocol and stands beside nothing else.
        """
        by_protocol = not math.isnan(self.nanogpt_val_loss)
        published = (
            "{:.2f} / {:.2f}".format(*self.published) if self.published and by_protocol else "-"
        )
        return {
            "model": self.model,
            "params": in_millions(self.parameters),
            "train loss": self.nanogpt_train_loss if by_protocol else self.train_loss,
            "val loss": self.nanogpt_val_loss if by_protocol else self.val_loss,
            "published": published,
            "full val": self.val_loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
        }

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    name: str,
    checkpoint: "Checkpoint",
    bins: TokenBins,
    batches: int = NANOGPT_BATCHES,
    most: int | None = ENCODED_TOKENS,
) -> Measurement:
    """Measure a checkpoint on token bins.

    batches: random ones per split by nanoGPT's protocol; 0 leaves it out
    most: tokens of a split that are encoded anew for a model of another vocabulary; None: all
    A split too short for a random batch leaves the protocol out of both splits as well, and
    `left_out` says so.
    raises: TokenBinsError
    """
    from devopsgpt_model.evaluate import evaluate, mean_loss, tokens_in

    meta, model, tokenizer = bins.meta, checkpoint.model, checkpoint.tokenizer
    val, train = (tokens_in(tokenizer, bins, split, most) for split in ("val", "train"))
    full = evaluate(model, tokenizer, val)
    left_out = _why_left_out(checkpoint, {"val": val, "train": train}, batches)
    return Measurement(
        model=name,
        parameters=model.config.parameter_count,
        dataset=meta.dataset,
        data_version=meta.data_version,
        val_loss=full.loss,
        train_loss=mean_loss(model, train, every=max(1, len(train) // len(val))),
        perplexity=full.perplexity,
        bits_per_byte=full.bits_per_byte,
        tokens=full.tokens,
        seconds=full.seconds,
        nanogpt_val_loss=math.nan if left_out else _nanogpt_loss(checkpoint, val, batches),
        nanogpt_train_loss=math.nan if left_out else _nanogpt_loss(checkpoint, train, batches),
        left_out=left_out,
    )


def _window(checkpoint: "Checkpoint") -> int:
    return min(NANOGPT_BLOCK_SIZE, checkpoint.model.config.block_size)


def _why_left_out(
    checkpoint: "Checkpoint", splits: "dict[str, NDArray[np.uint16]]", batches: int
) -> str:
    if not batches:
        return "nanoGPT's protocol was left out, 0 batches were asked for"
    short = [
        f"{name} has {len(tokens):,}"
        for name, tokens in splits.items()
        if len(tokens) <= _window(checkpoint)
    ]
    if not short:
        return ""
    needed = _window(checkpoint) + 1
    return (
        f"nanoGPT's protocol was left out, its windows take {needed:,} tokens and "
        f"{' and '.join(short)}"
    )


def _nanogpt_loss(checkpoint: "Checkpoint", tokens: "NDArray[np.uint16]", batches: int) -> float:
    from devopsgpt_model.evaluate import random_batch_loss

    return random_batch_loss(
        checkpoint.model,
        tokens,
        batches=batches,
        batch_size=NANOGPT_BATCH_SIZE,
        block_size=_window(checkpoint),
    )


def datasets_at_hand(tokens: Path) -> list[Path]:
    """The folders of token bins in a home, by name."""
    return sorted(
        path.parent for path in tokens.glob("*/meta.json") if not path.parent.name.startswith(".")
    )
