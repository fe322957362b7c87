"""One table of everything that was measured: baselines and fine-tunes on every dataset, as MLflow's
runs tell it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow import MlflowClient

from devopsgpt_model.config import GPT2_SIZES, in_millions
from devopsgpt_pipeline.evaluation.published import LOSSES, PROTOCOL_DATASET, published_metrics
from devopsgpt_pipeline.home import BOOKS, OLD_BOOKS
from devopsgpt_pipeline.tracking.client import (
    aliases_by_name,
    all_pages,
    experiment_id,
    model_versions,
)

KINDS = ("baseline", "finetune")
BY_PROTOCOL = f"nanogpt_val_loss/{PROTOCOL_DATASET}"
SHOWN_BENCHMARKS = (
    "acc/lambada_openai",
    "perplexity/lambada_openai",
    "word_perplexity/wikitext",
    "bits_per_byte/wikitext",
    "acc_norm/hellaswag",
)
EARLIER = "†"
FOOTNOTE = f"{EARLIER} measured on another version of the data than the newest run's."
COMPARES = (
    "val_loss in nats/token compares models with the same tokenizer, bits_per_byte all of them."
)
LIKE_WITH_LIKE = (
    f"The losses published for {PROTOCOL_DATASET} are by nanoGPT's protocol, 500 random batches: "
    "they compare with "
    f"{BY_PROTOCOL}. val_loss is a pass over the whole held-out text."
)


@dataclass(frozen=True)
class Entry:
    """A model with what was measured. kind: baseline, finetune or published; NaN and absent where
    not measured

    metrics: as in MLflow, val_loss/books; size: of GPT-2, or parameters; data_versions: by dataset
    earlier: datasets whose data has changed since; registered: its version and aliases
    """

    model: str
    kind: str
    parameters: float
    metrics: Mapping[str, float]
    vocabulary: str = "gpt2"
    size: str = ""
    run_id: str = ""
    data_versions: Mapping[str, str] = field(default_factory=dict)
    earlier: frozenset[str] = frozenset()
    registered: str = ""

    def value(self, metric: str, dataset: str) -> float:
        return self.metrics.get(f"{metric}/{dataset}", math.nan)

    def mark(self, metric: str) -> str:
        """The sign of a value that was measured on data that has changed since."""
        return EARLIER if metric.partition("/")[2] in self.earlier else ""


@dataclass(frozen=True)
class Leaderboard:
    """Every entry, the best first, and the datasets that something was measured on."""

    entries: list[Entry]
    datasets: list[str]

    @property
    def columns(self) -> list[str]:
        """Metrics by MLflow's names: of each dataset, then of the benchmarks that were measured."""
        found: list[str] = []
        for dataset in self.datasets:
            found += [f"val_loss/{dataset}", f"bits_per_byte/{dataset}"]
            found += [BY_PROTOCOL] if dataset == PROTOCOL_DATASET else []
        measured = {name for entry in self.entries if entry.kind in KINDS for name in entry.metrics}
        return found + [name for name in SHOWN_BENCHMARKS if name in measured]

    def loss_to_compare(self, dataset: str) -> str:
        """What models are compared by on a dataset: the loss by nanoGPT's protocol where such
        losses were published."""
        by_protocol = any(
            BY_PROTOCOL in entry.metrics for entry in self.entries if entry.kind in KINDS
        )
        return BY_PROTOCOL if dataset == PROTOCOL_DATASET and by_protocol else f"val_loss/{dataset}"

    def rows(self) -> list[dict[str, str]]:
        """For people: a row for each model, what was published of it below, and the columns."""
        columns = self.columns
        return [self._row(entry, columns) for entry in self.entries]

    def parts(self) -> list[list[dict[str, str]]]:
        """The same rows cut to a terminal's width: a table for each dataset, one for the
        benchmarks; none is empty.

        The kind is left out, a model's name tells it.
        """
        columns = self.columns
        groups = [
            [name for name in columns if name.partition("/")[2] == dataset]
            for dataset in self.datasets
        ]
        groups.append([name for name in columns if name in SHOWN_BENCHMARKS])
        tables = (
            [self._row(one, group) for one in self.entries if set(group) & set(one.metrics)]
            for group in groups
        )
        return [
            [{key: value for key, value in row.items() if key != "kind"} for row in rows]
            for rows in tables
            if rows
        ]

    def _row(self, entry: Entry, columns: Sequence[str]) -> dict[str, str]:
        row = {"model": entry.model, "kind": entry.kind, "version": entry.registered or "-"}
        row["parameters"] = _size(entry.parameters)
        for column in columns:
            value, mark = entry.metrics.get(column, math.nan), entry.mark(column)
            row[column] = "-" if math.isnan(value) else f"{value:.4f}{mark}"
        return row | {"memorization": _memorization(entry)}

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        notes = [COMPARES]
        notes += [LIKE_WITH_LIKE] if PROTOCOL_DATASET in self.datasets else []
        return notes + ([FOOTNOTE] if any(entry.earlier for entry in self.entries) else [])

    def markdown(self) -> str:
        """The table with its footnotes."""
        rows = self.rows()
        if not rows:
            return "Nothing was measured yet."
        lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
        return "\n".join(lines) + "\n\n" + "\n\n".join(self.notes()) + "\n"


def read_leaderboard(client: MlflowClient) -> Leaderboard:
    """The finished runs of the experiment and the published values beside them."""
    # MLflow's search knows IN for attributes, not for tags
    query = "attributes.status = 'FINISHED'"
    found = all_pages(
        client.search_runs, experiment_ids=[experiment_id(client)], filter_string=query
    )
    entries = [_entry(run) for run in found if run.data.tags.get("kind") in KINDS]
    measured = [entry for entry in entries if any(map(_is_shown, entry.metrics))]
    datasets = sorted(
        {name.partition("/")[2] for entry in measured for name in entry.metrics if _is_loss(name)}
    )
    newest: dict[str, str] = {}
    for entry in measured:  # MLflow answers the newest run first
        newest = dict(entry.data_versions) | newest
    versions = _versions(client)
    seen = [
        replace(_marked(entry, newest), registered=versions.get(entry.run_id, ""))
        for entry in measured
    ]
    ranked = sorted(seen, key=lambda entry: _rank(entry, datasets))
    return with_published(Leaderboard(ranked, datasets))


def _versions(client: MlflowClient) -> dict[str, str]:
    """The newest version that each run's model is registered as, with its aliases: "3 champion"."""
    aliases: dict[str, list[str]] = {}
    for alias, version in sorted(aliases_by_name(client).items()):
        aliases.setdefault(version, []).append(alias)
    oldest_first = reversed(model_versions(client))
    return {
        str(one.run_id): " ".join([str(one.version), *aliases.get(str(one.version), [])])
        for one in oldest_first
    }


def _is_loss(metric: str) -> bool:
    return metric.startswith("val_loss/")


def _is_shown(metric: str) -> bool:
    return _is_loss(metric) or metric in SHOWN_BENCHMARKS


def _entry(run: Any) -> Entry:
    tags, metrics = _renamed(run.data.tags), _renamed(run.data.metrics)
    versions = {
        name.partition("/")[2]: value
        for name, value in tags.items()
        if name.startswith("data_version/")
    }
    return Entry(
        model=run.info.run_name,
        kind=tags["kind"],
        parameters=metrics.get("parameters", math.nan),
        metrics={name: value for name, value in metrics.items() if "/" in name},
        vocabulary=run.data.params.get("tokenizer", "gpt2"),
        size=tags.get("model_size", ""),
        run_id=run.info.run_id,
        data_versions=versions,
    )


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name, those of a run from before the books' dataset was renamed under its name.

    A baseline's run may have both: what was measured since then stands.
    """
    old, new = f"/{OLD_BOOKS}", f"/{BOOKS}"
    renamed = {name.removesuffix(old) + new: values[name] for name in values if name.endswith(old)}
    return renamed | {name: values[name] for name in values if not name.endswith(old)}


def _marked(entry: Entry, newest: Mapping[str, str]) -> Entry:
    earlier = frozenset(
        name
        for name, version in entry.data_versions.items()
        if newest.get(name, version) != version
    )
    return replace(entry, earlier=earlier)


def with_published(board: Leaderboard) -> Leaderboard:
    """Below each size of GPT-2 what others published of it, where something in the table compares;
    the rest last."""
    columns = set(board.columns)
    published = {
        size: _published(size) for size in LOSSES if columns & set(published_metrics(size))
    }
    entries: list[Entry] = []
    for entry in board.entries:
        entries.append(entry)
        if entry.kind == "baseline" and entry.size in published:
            entries.append(published.pop(entry.size))
    return Leaderboard([*entries, *published.values()], board.datasets)


def _published(size: str) -> Entry:
    parameters = GPT2_SIZES[size].parameter_count
    return Entry(
        f"{size} as published", "published", parameters, published_metrics(size), size=size
    )


def _rank(entry: Entry, datasets: Sequence[str]) -> tuple[float, float, str]:
    """By bits per byte on the books, then by loss on anything; what has neither stands last."""
    book = entry.value("bits_per_byte", BOOKS)
    losses = [entry.value("val_loss", dataset) for dataset in datasets]
    first = next((loss for loss in losses if not math.isnan(loss)), math.inf)
    return (math.inf if math.isnan(book) else book, first, entry.model)


def _size(parameters: float) -> str:
    return "-" if math.isnan(parameters) else in_millions(int(parameters))


def _memorization(entry: Entry) -> str:
    shares = [value for name, value in entry.metrics.items() if name.startswith("memorization/")]
    return f"{shares[0]:.1%}" if shares else "-"
