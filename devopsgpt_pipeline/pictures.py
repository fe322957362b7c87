"""Pictures for Dagster's metadata and MLflow's artifacts."""

import base64
import io
from collections.abc import Sequence
from typing import Any


def loss_curve(lines: Sequence[dict[str, Any]], title: str) -> bytes:
    """PNG of train_loss and val_loss against the step. lines: as in metrics.jsonl"""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, style in (("train_loss", dict(linewidth=1)), ("val_loss", dict(marker="o", linewidth=2))):
        points = [(line["step"], line[key]) for line in lines if key in line]
        axes.plot(*zip(*points, strict=True), label=key, **style) if points else None
    axes.set(title=title, xlabel="step", ylabel="loss (nats/token)")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def as_markdown(png: bytes, alt: str) -> str:
    """An image that stands in the text itself, so that metadata needs no file server."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"
