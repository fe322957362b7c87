"""What a person sees while the chain runs: a line per finished step, and one line that moves.

Dagster captures a step's stdout and stderr, so this writes to a copy of the terminal made
beforehand.
"""

import os
import time

import dagster as dg
from rich.console import Console
from rich.status import Status

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
