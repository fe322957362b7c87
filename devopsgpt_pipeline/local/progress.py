"""What a person sees while the chain runs: a line per finished step, and one line that moves.

Dagster captures a step's stdout and stderr, so this writes to a copy of the terminal made
beforehand.
"""

import os
import time
from typing import Any, Literal

import dagster as dg
from rich.console import Console
from rich.status import Status
from rich.table import Table

PIPE_WIDTH = 1000  # columns: enough for every table
# where the output is no terminal, a moving line becomes a line now and then
PLAIN_LINE_EVERY_S = 10.0


class ChainProgress:
    """Turns a run's events into lines. Use as a context manager; call it with each event."""

    def __init__(self) -> None:
        self._console = Console(file=os.fdopen(os.dup(1), "w"), highlight=False, soft_wrap=True)
        self._status = Status("starting", console=self._console)
        self._printed_at = 0.0
        self._started: dict[str, float] = {}

    def __enter__(self) -> "ChainProgress":
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.stop()
        self._console.file.close()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text)

    def __call__(self, entry: dg.EventLogEntry) -> None:
        """Take in one event of a run."""
        event, step = entry.dagster_event, entry.step_key or ""
        if event is None:
            self._move(step, entry.user_message)
        elif event.is_step_start:
            self._started[step] = time.monotonic()
            self._move(step, "")
        elif event.is_step_success:
            seconds = time.monotonic() - self._started.get(step, time.monotonic())
            self.say(f"  [green]done[/]  {step:<40} {seconds:6.1f} s")
        elif event.is_step_failure:
            self.say(f"  [red]failed[/]  {step}")

    def _move(self, step: str, message: str) -> None:
        text = f"{step}  {message}".strip()
        if self._console.is_terminal:
            self._status.update(text)
        elif message and time.monotonic() - self._printed_at > PLAIN_LINE_EVERY_S:
            self._printed_at = time.monotonic()
            self.say(f"        {text}")


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows of numbers for a person to compare. A head as val_loss/sre takes two lines:
    numbers are narrow.

    Nothing is cut off: a narrow terminal folds, and what reads a pipe has no width.
    """
    shown = Table()
    for key, value in rows[0].items():
        justify: Literal["left", "right"] = "left" if isinstance(value, str) else "right"
        shown.add_column(key.replace("/", "/\n"), justify=justify, overflow="fold")
    for row in rows:
        shown.add_row(
            *(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values())
        )
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(shown)
