"""`devopsgpt evaluate`: any model on any dataset, a fine-tune beside its start, kept in the model's
own MLflow run."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from devopsgpt_model.checkpoint import Checkpoint
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_pipeline.evaluation.comparison import log_measurement, start_of
from devopsgpt_pipeline.evaluation.measure import Measurement, measure
from devopsgpt_pipeline.evaluation.named_models import NamedModel, find_model
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.download import Say
from devopsgpt_pipeline.tracking.client import connect


def evaluate_models(
    home: Home,
    tracking_uri: str | None,
    names: list[str],
    datasets: list[str],
    batches: int,
    say: Say,
) -> list[dict[str, Any]]:
    """Measure every model on every dataset. tracking_uri: None where no model has a run; say: hears
    what is notable

    returns: rows of the table, a fine-tune's start after it
    raises: as find_model and measure
    """
    # before a model is fetched: a dataset that is not here is told at once
    opened = [TokenBins.open(home.bins(dataset)) for dataset in datasets]
    for bins in opened:
        bins.check()
    client = connect(tracking_uri) if tracking_uri else None
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="devopsgpt-evaluate-") as scratch:
            model = find_model(home, client, name, Path(scratch))
            for measured in _measure_all(client, model, opened, batches, say):
                rows.append({"dataset": measured.dataset, **measured.row()})
                if batches and measured.left_out:
                    say(f"warning: {measured.model} on {measured.dataset}: {measured.left_out}")
                elif not measured.agrees:
                    say(f"warning: {measured.model} on {measured.dataset}: {measured.compared()}")
    return rows


def _measure_all(
    client: "MlflowClient | None",
    model: NamedModel,
    datasets: list[TokenBins],
    batches: int,
    say: Say,
) -> Iterator[Measurement]:
    start = _start(model, say)
    for bins in datasets:
        measured = measure(model.name, model.checkpoint, bins, batches)
        before = measure(f"{model.name}, its start", start, bins, batches) if start else None
        if client is not None and model.run_id:
            log_measurement(client, model.run_id, measured, before, model.step)
        else:
            say(f"{model.name} has no MLflow run here; its numbers are only printed")
        yield measured
        if before:
            yield before


def _start(model: NamedModel, say: Say) -> "Checkpoint | None":
    """What a fine-tune started from; None for other models, and, told, where it is gone."""
    if "config" not in model.checkpoint.training:
        return None
    try:
        return start_of(model.checkpoint)
    except ValueError as error:
        say(f"the start of {model.name} is not measured: {error}")
        return None
