"""Dagster's webserver with the guard before it: `python -m devopsgpt_pipeline.operations.webserver`
takes what `dagster-webserver` takes.

Dagster has no setting for a middleware, so the function that makes its application is wrapped, in
this process alone.
"""

from typing import Any

from dagster_webserver import cli

from devopsgpt_pipeline.operations.browser_guard import BrowserGuard
from devopsgpt_pipeline.settings import read_settings


def main() -> None:
    """Start the webserver with the command line's options."""
    names = read_settings().dagster_host_names
    program: Any = cli
    make_app = program.create_app_from_workspace_process_context

    def make_guarded(*arguments: Any, **more: Any) -> BrowserGuard:
        return BrowserGuard(make_app(*arguments, **more), names)

    program.create_app_from_workspace_process_context = make_guarded
    program.dagster_webserver(auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
