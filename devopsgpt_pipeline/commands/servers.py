"""`devopsgpt up` and `serve`: the servers, until a Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from types import FrameType
from typing import NoReturn

import click

from devopsgpt_pipeline.commands.errors import report_errors
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from devopsgpt_pipeline.local.databases import check_databases, clear_unfinished_mlflow
from devopsgpt_pipeline.local.up_lock import sole_up
from devopsgpt_pipeline.profiles import chosen_profile
from devopsgpt_pipeline.settings import read_settings

DAGSTER_PORT, MLFLOW_PORT, SERVING_PORT = 3000, 5000, 8000


@click.command()
@click.option("--dagster-port", default=DAGSTER_PORT, show_default=True, help="Dagster's web UI.")
@click.option(
    "--mlflow-port", default=MLFLOW_PORT, show_default=True, help="MLflow: runs and registry."
)
@click.option("--service-port", default=SERVING_PORT, show_default=True, help="The service.")
@report_errors
def up(dagster_port: int, mlflow_port: int, service_port: int) -> None:
    """Start Dagster, MLflow and the service over the same home; Ctrl-C stops all three."""
    settings = read_settings()
    chosen_profile(settings)  # before three servers start, one of which would tell it in its log
    home = Home(settings.home).prepare()
    mlflow = servers.mlflow_server(home, mlflow_port)
    servers.set_environment(home, mlflow.url, mlflow.url)
    started = [
        mlflow,
        servers.dagster_server(home, dagster_port),
        servers.serving_server(home, service_port, mlflow.url),
    ]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with sole_up(home, started) as lock:
            check_databases(home)
            clear_unfinished_mlflow(home)
            servers.check_ports_free(started)
            _run(home, started, lock)
    except KeyboardInterrupt:
        click.echo("\nstopped")


def _run(home: Home, started: Sequence[servers.Server], lock: int) -> NoReturn:
    click.echo(f"starting; logs are in {home.logs}")
    with servers.running(started, lock) as children:
        contents = ("runs and registry", "assets and schedules", "the API")
        for server, what in zip(started, contents, strict=True):
            click.echo(f"  {server.name:<8} {server.url}  {what}")
        click.echo("Ctrl-C stops all three")
        _wait_for_an_end(started, children)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_for_an_end(
    started: Sequence[servers.Server], children: Sequence[subprocess.Popen[bytes]]
) -> NoReturn:
    while True:
        for server, child in zip(started, children, strict=True):
            if child.poll() is not None:
                raise RuntimeError(
                    f"{server.name} ended with status {child.returncode}; its log is {server.log}"
                )
        time.sleep(0.5)


@click.command()
@click.option(
    "--host", default=None, help="Address to listen on, 127.0.0.1 if unset; others need keys."
)
@click.option("--port", default=SERVING_PORT, show_default=True, help="Where the API listens.")
@click.option(
    "--api-keys-file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with one accepted key a line; or set DEVOPSGPT_SERVING_API_KEYS.",
)
@click.option(
    "--tracking-uri",
    default=None,
    help="MLflow server; default: MLFLOW_TRACKING_URI, else localhost:5000.",
)
@report_errors
def serve(host: str | None, port: int, api_keys_file: str | None, tracking_uri: str | None) -> None:
    """Serve the registry's champion over HTTP; needs an MLflow server (`devopsgpt up` starts
    one).

    `python -m devopsgpt_serving --help` lists every setting.
    """
    for name in ("fastapi", "uvicorn"):
        if find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    uri = tracking_uri or read_settings().tracking_server
    given = {"PORT": str(port), "TRACKING_URI": uri, "HOST": host, "API_KEYS_FILE": api_keys_file}
    os.environ |= {f"DEVOPSGPT_SERVING_{name}": value for name, value in given.items() if value}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "devopsgpt_serving"])
