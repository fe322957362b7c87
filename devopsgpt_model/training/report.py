"""What the outside hears of a training run, from rank 0 only.

Always JSON lines in the run's folder; MLflow when the job names a run; Dagster Pipes when launched
by it. A tracking server that goes away does not stop the training: the lines on disk are sent when
it is back.
"""

import json
import os
import queue
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from devopsgpt_model.atomic import write_atomically
from devopsgpt_model.tracking import limit_patience

SILENCE_S = 10  # of MLflow, after which a call is tried again
# how long the end of a run waits for a tracking server that does not answer
DELIVERY_DEADLINE_S = 60.0


class ReportError(RuntimeError):
    """Metrics that could not be delivered; they stand in metrics.jsonl and are sent by the next
    start."""


class Report(AbstractContextManager["Report"]):
    """Metrics of one run. Entering it connects; leaving it delivers what is still under way."""

    def __init__(
        self, metrics_file: Path, tracking_uri: str, run_id: str, trained_to: int, evaluated_at: int
    ) -> None:
        """Lines of work that a kill undid are dropped: it is done again.

        trained_to, evaluated_at: the steps that the run goes on from, and that it evaluated last
        """
        self.path, ends = metrics_file, {"train_loss": trained_to, "val_loss": evaluated_at}
        lines = [line for line in read_metrics(metrics_file) if line["step"] <= ends[_kind(line)]]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._mlflow = _MlflowSender(tracking_uri, run_id, lines) if tracking_uri else None
        self._pipes = _open_pipes()

    def metrics(
        self, step: int, values: dict[str, float], note: dict[str, Any] | None = None
    ) -> None:
        """Report values of one step. note: further facts for the launcher's progress line, not for
        charts."""
        line = {"step": step, "time": time.time(), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._mlflow:
            self._mlflow.put(line)
        if self._pipes:
            self._pipes.report_custom_message({"step": step, **values, **(note or {})})

    def say(self, text: str) -> None:
        """One line for whoever watches: the launcher's log, or the terminal."""
        if self._pipes:
            self._pipes.log.info(text)
        else:
            print(text, flush=True)

    def __exit__(self, *exception: object) -> None:
        try:
            if self._mlflow:
                self._mlflow.close()
        finally:
            if self._pipes:
                self._pipes.close()


class Silence:
    """What the other ranks report to."""

    def metrics(
        self, step: int, values: dict[str, float], note: dict[str, Any] | None = None
    ) -> None:
        """Nothing: rank 0 reports."""

    def say(self, text: str) -> None:
        """Nothing: rank 0 speaks."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill does not count."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _open_pipes() -> Any:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return None
    import dagster_pipes

    return dagster_pipes.open_dagster_pipes()


class _MlflowSender:
    """Sends metrics from a thread of its own, so that a slow server never delays a training
    step."""

    def __init__(self, tracking_uri: str, run_id: str, earlier: list[dict[str, Any]]) -> None:
        limit_patience(SILENCE_S)
        self._tracking_uri, self._run_id = tracking_uri, run_id
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._earlier = earlier
        self._failure: Exception | None = None
        self._closing_at: float | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow-metrics")
        self._thread.start()

    def put(self, line: dict[str, Any]) -> None:
        self._lines.put(line)

    def close(self) -> None:
        """raises: ReportError where the server did not take the metrics before the deadline"""
        self._closing_at = time.monotonic()
        self._lines.put(None)
        self._thread.join(DELIVERY_DEADLINE_S + 15)
        if self._failure or self._thread.is_alive():
            raise ReportError(
                f"MLflow at {self._tracking_uri} did not take the last metrics of run "
                f"{self._run_id}; they are kept, start the run again when it answers "
                f"({self._failure})"
            ) from self._failure

    def _work(self) -> None:
        waiting = list(self._earlier)
        client, known = None, dict[str, int]()
        ended = False
        while not ended or waiting:
            ended = self._drain(waiting, ended)
            try:
                if client is None:
                    client, known = self._connect()
                waiting = [line for line in waiting if line["step"] > known[_kind(line)]]
                if waiting:
                    client.log_batch(self._run_id, metrics=_metrics(waiting), synchronous=True)
                waiting, self._failure = [], None
            # whatever the client raises, the lines wait for the next try
            except Exception as error:
                self._failure = error
                if self._closing_at and time.monotonic() - self._closing_at > DELIVERY_DEADLINE_S:
                    return
                time.sleep(2.0)

    def _connect(self) -> tuple[Any, dict[str, int]]:
        """A client, and the last step of each kind of line that an earlier start of this run
        delivered."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._tracking_uri)
        histories = {
            kind: client.get_metric_history(self._run_id, kind)
            for kind in ("train_loss", "val_loss")
        }
        return client, {
            kind: max((m.step for m in history), default=-1) for kind, history in histories.items()
        }

    def _drain(self, waiting: list[dict[str, Any]], ended: bool) -> bool:
        """Move queued lines to `waiting`, sleeping until there is one; True once the run has
        ended."""
        block = not ended and not waiting
        while True:
            try:
                line = self._lines.get(block=block, timeout=1.0 if block else None)
            except queue.Empty:
                return ended
            block = False
            if line is None:
                ended = True
            else:
                waiting.append(line)


def _kind(line: dict[str, Any]) -> str:
    return "val_loss" if "val_loss" in line else "train_loss"


def _metrics(lines: list[dict[str, Any]]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(key, float(value), int(line["time"] * 1000), line["step"])
        for line in lines
        for key, value in line.items()
        if key not in ("step", "time")
    ]
