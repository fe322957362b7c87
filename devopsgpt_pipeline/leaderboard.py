"""One table of everything that was measured: baselines and fine-tunes on every dataset, as MLflow's runs tell it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devopsgpt_model.config import GPT2_SIZES, GPTConfig
from devopsgpt_pipeline.measure import PUBLISHED, in_millions
from devopsgpt_pipeline.registry.tracking import all_pages, experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

KINDS = ("baseline", "finetune")
SHOWN = ("val_loss", "bits_per_byte")
EARLIER = "†"
FOOTNOTE = f"{EARLIER} measured on another version of the data than the newest run's."


@dataclass(frozen=True)
class Entry:
    """A model with what was measured. kind: baseline, finetune or published; NaN and absent where not measured

    metrics: as in MLflow, val_loss/sre; data_versions: by dataset; earlier: datasets whose data has changed since
    """

    model: str
    kind: str
    parameters: float
    metrics: Mapping[str, float]
    vocabulary: str = "gpt2"
    run_id: str = ""
    data_versions: Mapping[str, str] = field(default_factory=dict)
    earlier: frozenset[str] = frozenset()

    def value(self, metric: str, dataset: str) -> float:
        return self.metrics.get(f"{metric}/{dataset}", math.nan)


@dataclass(frozen=True)
class Leaderboard:
    """Every entry, the best first, and the datasets that something was measured on."""

    entries: list[Entry]
    datasets: list[str]

    def rows(self) -> list[dict[str, str]]:
        """For people: a row for each model, two columns for each dataset."""
        return [self._row(entry) for entry in self.entries]

    def _row(self, entry: Entry) -> dict[str, str]:
        row = {"model": entry.model, "kind": entry.kind, "parameters": _size(entry.parameters)}
        for dataset in self.datasets:
            mark = EARLIER if dataset in entry.earlier else ""
            for metric in SHOWN:
                value = entry.value(metric, dataset)
                row[f"{metric}/{dataset}"] = "-" if math.isnan(value) else f"{value:.4f}{mark}"
        return row | {"memorization": _memorization(entry)}

    def markdown(self) -> str:
        """The table with its footnotes."""
        rows = self.rows()
        if not rows:
            return "Nothing was measured yet."
        lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
        notes = ["val_loss in nats/token compares models with the same tokenizer, bits_per_byte all of them."]
        notes += [FOOTNOTE] if any(entry.earlier for entry in self.entries) else []
        return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def read_leaderboard(client: "MlflowClient") -> Leaderboard:
    """The finished runs of the experiment and the published values beside them."""
    query = "attributes.status = 'FINISHED'"  # MLflow's search knows IN for attributes, not for tags
    found = all_pages(client.search_runs, experiment_ids=[experiment_id(client)], filter_string=query)
    runs = [run for run in found if run.data.tags.get("kind") in KINDS]
    measured = [entry for entry in map(_entry, runs) if any(name.startswith("val_loss/") for name in entry.metrics)]
    datasets = sorted({name.partition("/")[2] for entry in measured for name in entry.metrics if "val_loss/" in name})
    newest: dict[str, str] = {}
    for entry in measured:  # MLflow answers the newest run first
        newest = dict(entry.data_versions) | newest
    entries = [_marked(entry, newest) for entry in measured]
    entries += published() if "openwebtext" in datasets else []
    return Leaderboard(sorted(entries, key=lambda entry: _rank(entry, datasets)), datasets)


def _entry(run: Any) -> Entry:
    tags, metrics = run.data.tags, run.data.metrics
    versions = {name.partition("/")[2]: value for name, value in tags.items() if name.startswith("data_version/")}
    return Entry(
        model=run.info.run_name,
        kind=tags["kind"],
        parameters=metrics.get("parameters", math.nan),
        metrics={name: value for name, value in metrics.items() if "/" in name},
        vocabulary=run.data.params.get("tokenizer", "gpt2"),
        run_id=run.info.run_id,
        data_versions=versions,
    )


def _marked(entry: Entry, newest: Mapping[str, str]) -> Entry:
    earlier = frozenset(name for name, version in entry.data_versions.items() if newest.get(name, version) != version)
    return Entry(**(vars(entry) | {"earlier": earlier}))


def published() -> list[Entry]:
    """What nanoGPT's table says of GPT-2 on OpenWebText."""
    return [
        Entry(f"{name} as published", "published", parameter_count(GPT2_SIZES[name]), {"val_loss/openwebtext": loss})
        for name, (_, loss) in PUBLISHED.items()
    ]


def parameter_count(config: GPTConfig) -> int:
    """Weights of a GPT-2 of this shape, its head tied to the token embedding. source: Radford et al. 2019"""
    width = config.n_embd
    per_layer = 12 * width**2 + 13 * width  # attention 4w^2 + 4w, MLP 8w^2 + 5w, two norms 4w
    return (config.vocab_size + config.block_size) * width + config.n_layer * per_layer + 2 * width


def _rank(entry: Entry, datasets: Sequence[str]) -> tuple[float, float, str]:
    """By bits per byte on the books, then by loss on anything; what has neither stands last."""
    book = entry.value("bits_per_byte", "sre")
    losses = [entry.value("val_loss", dataset) for dataset in datasets]
    first = next((loss for loss in losses if not math.isnan(loss)), math.inf)
    return (math.inf if math.isnan(book) else book, first, entry.model)


def _size(parameters: float) -> str:
    return "-" if math.isnan(parameters) else in_millions(int(parameters))


def _memorization(entry: Entry) -> str:
    shares = [value for name, value in entry.metrics.items() if name.startswith("memorization/")]
    return f"{shares[0]:.1%}" if shares else "-"
