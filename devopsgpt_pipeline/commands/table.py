"""Tables of numbers in the terminal."""

from typing import Any, Literal

PIPE_WIDTH = 1000  # columns: enough for every table


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of numbers for a person to compare. A head as val_loss/books takes two lines:
    numbers are narrow.

    Nothing is cut off: a narrow terminal folds, and what reads a pipe has no width.
    """
    from rich.console import Console
    from rich.table import Table

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
