"""Pictures for Dagster's metadata and MLflow's artifacts."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from devopsgpt_pipeline.evaluation.leaderboard import Entry, Leaderboard


def loss_curve(lines: Sequence[dict[str, Any]], title: str) -> bytes:
    """PNG of train_loss and val_loss against the step. lines: as in metrics.jsonl"""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, style in (
        ("train_loss", dict(linewidth=1)),
        ("val_loss", dict(marker="o", linewidth=2)),
    ):
        points = [(line["step"], line[key]) for line in lines if key in line]
        axes.plot(*zip(*points, strict=True), label=key, **style) if points else None
    axes.set(title=title, xlabel="step", ylabel="loss (nats/token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return _png(figure)


def as_markdown(png: bytes, alt: str) -> str:
    """An image that stands in the text itself, so that metadata needs no file server."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


STYLES: dict[str, dict[str, Any]] = {
    "baseline": {"marker": "s", "color": "tab:blue", "label": "GPT-2 as released"},
    "finetune": {"marker": "o", "color": "tab:orange", "label": "fine-tuned"},
    "published": {"marker": "x", "color": "black", "label": "published"},
}


LABEL_POINTS = 7.0


def loss_against_parameters(board: Leaderboard) -> bytes:
    """PNG: a column for each dataset, loss above and bits per byte below, against parameters.

    Hollow marks have another tokenizer than GPT-2's: their losses compare below only. Pale ones
    were measured on an earlier version of the data. Where losses were published they are by
    nanoGPT's protocol, and so are those beside.
    """
    columns = max(1, len(board.datasets))
    figure = Figure(figsize=(1.5 + 4.2 * columns, 7.6), layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False, sharex=True)
    for column, dataset in enumerate(board.datasets):
        shown = (
            (board.loss_to_compare(dataset), "nats/token"),
            (f"bits_per_byte/{dataset}", "bits/byte"),
        )
        for row, (metric, unit) in enumerate(shown):
            axes = panels[row][column]
            for entry in board.entries:
                _mark(axes, entry, metric, dataset)
            axes.set(title=metric, xlabel="parameters", ylabel=unit, xscale="log")
            axes.margins(0.15)
            axes.grid(alpha=0.3)
    _legend(figure, panels)
    figure.draw_without_rendering()  # where things stand is known after this
    for column, dataset in enumerate(board.datasets):
        _label(panels[0][column], board, board.loss_to_compare(dataset))
        _label(panels[1][column], board, f"bits_per_byte/{dataset}")
    return _png(figure)


def _mark(axes: Any, entry: Entry, metric: str, dataset: str) -> None:
    style, value = STYLES[entry.kind], entry.metrics.get(metric, math.nan)
    if math.isnan(value) or math.isnan(entry.parameters):
        return
    filled = style["color"] if entry.vocabulary == "gpt2" else "none"
    pale = 0.3 if dataset in entry.earlier else 1.0
    edge = {} if style["marker"] == "x" else {"markerfacecolor": filled}
    axes.plot([entry.parameters], [value], linestyle="", markersize=8, alpha=pale, **style, **edge)


def _legend(figure: Figure, panels: Any) -> None:
    """One for all panels. What a mark's filling means is said beneath."""
    found = {
        label: handle
        for axes in panels.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if found:
        told = (
            "hollow: another tokenizer than GPT-2's; pale: measured on an earlier version of the "
            "data"
        )
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=len(found),
            title=told,
            title_fontsize=8,
        )


def _label(axes: Any, board: Leaderboard, metric: str) -> None:
    """Names of the baselines, and of the best fine-tune of each size; all of them would lie on one
    another."""
    named: dict[tuple[str, float], tuple[float, str]] = {}
    for entry in board.entries:
        if (
            entry.kind != "published"
            and metric in entry.metrics
            and not math.isnan(entry.parameters)
        ):
            name = entry.size if entry.kind == "baseline" else entry.model
            key = (entry.kind, entry.parameters)
            named[key] = min(named.get(key, (math.inf, "")), (entry.metrics[metric], name))
    points = axes.figure.dpi / 72
    taken: list[tuple[float, float, float]] = []  # left, right and height of each label, in points
    for (_, parameters), (value, name) in sorted(named.items(), key=lambda pair: pair[1]):
        x, y = axes.transData.transform((parameters, value)) / points
        width = 0.62 * LABEL_POINTS * len(name)
        to_the_left = x + 8 + width > axes.bbox.x1 / points
        left = x - 8 - width if to_the_left else x + 8
        height = y - LABEL_POINTS / 3
        for begin, end, at in taken:  # from below: one that would lie on another goes above it
            if begin < left + width and left < end and abs(height - at) < LABEL_POINTS + 2:
                height = at + LABEL_POINTS + 2
        taken.append((left, left + width, height))
        where: dict[str, Any] = {
            "xytext": (-8 if to_the_left else 8, height - y),
            "ha": "right" if to_the_left else "left",
        }
        axes.annotate(
            name, (parameters, value), textcoords="offset points", fontsize=LABEL_POINTS, **where
        )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
