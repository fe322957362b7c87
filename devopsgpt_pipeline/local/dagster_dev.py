"""`dagster dev` with the guarded webserver: `python -m devopsgpt_pipeline.local.dagster_dev` takes
what `dagster dev` takes.

Dagster starts its own webserver as a process and has no setting for another one, so the command
that it starts is changed, in this process alone.
"""

from subprocess import Popen
from typing import Any

from dagster._cli import dev

ITS_OWN, GUARDED = "dagster_webserver", "devopsgpt_pipeline.operations.webserver"


def main() -> None:
    """Start code server, daemon and guarded webserver; runs until it is interrupted."""
    program: Any = dev
    start = program.open_ipc_subprocess
    guarded: list[list[str]] = []

    def start_guarded(parts: list[str], **more: Any) -> "Popen[Any]":
        if ITS_OWN in parts:
            guarded.append(parts)
        elif not guarded:  # the webserver is the first that Dagster starts
            raise RuntimeError(
                f"Dagster must start its webserver as `-m {ITS_OWN}`, got {parts[:3]}; install the "
                "pinned version of dagster"
            )
        return start([GUARDED if part == ITS_OWN else part for part in parts], **more)

    program.open_ipc_subprocess = start_guarded
    program.dev_command()


if __name__ == "__main__":
    main()
