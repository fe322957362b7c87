"""The servers beside Dagster's runs, as child processes: started together, waited for, stopped
together; and the environment that they share."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from devopsgpt_model.atomic import write_atomically
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local.databases import MLFLOW_ADDRESSES, dagster_storage
from devopsgpt_pipeline.local.keeper import Keeper
from devopsgpt_pipeline.settings import Settings

PACKAGE = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
READY_DEADLINE_S = 90.0
STOP_DEADLINE_S = 20.0


class ProcessError(RuntimeError):
    """A server that cannot be started, or that ended by itself."""


@dataclass(frozen=True)
class Server:
    """How to start a server and how to see that it answers."""

    name: str
    command: Sequence[str]
    port: int
    health_path: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    """Where it runs; here where unset."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def shipped(name: str) -> Path:
    """A file that lies beside the packages in a checkout, and within this package in a wheel."""
    beside = PACKAGE.parent / name
    return beside if beside.is_file() else PACKAGE / name


def set_environment(home: Home, tracking_uri: str, ui_url: str) -> None:
    """Point this process and its children at a home and its MLflow server; lay out DAGSTER_HOME."""
    instance = shipped("dagster.yaml").read_text() + dagster_storage(home.dagster)
    write_atomically(home.dagster / "dagster.yaml", instance.encode())
    os.environ |= {
        "DEVOPSGPT_HOME": str(home.path),
        "DAGSTER_HOME": str(home.dagster),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "DEVOPSGPT_MLFLOW_UI_URL": ui_url,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    # Two processes whose idle threads spin slow each other down: see docs/decisions.md. Where one
    # process has the machine to itself, `active` may be faster.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def mlflow_server(home: Home, port: int) -> Server:
    """MLflow: runs and registry in SQLite, artifacts in the home, served over HTTP."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    command += ["--workers", "1", *MLFLOW_ADDRESSES, "--serve-artifacts"]
    # the job runner would start eight processes of 240 MB each, for features that are not used here
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PYTHONSAFEPATH"] = "1"  # no file of the home is a module
    log = home.logs / "mlflow.log"
    return Server("MLflow", command, port, "/health", log, environment, home.mlflow)


def dagster_server(home: Home, port: int) -> Server:
    """Dagster's web UI, which refuses other people's pages, with its daemon: schedules, sensors,
    queued runs."""
    command = [sys.executable, "-m", "devopsgpt_pipeline.local.dagster_dev"]
    command += ["--host", HOST, "--port", str(port)]
    command += ["--workspace", str(shipped("workspace.yaml"))]
    return Server("Dagster", command, port, "/server_info", home.logs / "dagster.log")


def serving_server(home: Home, port: int, tracking_uri: str) -> Server:
    """The service, over the registry's current champion."""
    environment = {
        "DEVOPSGPT_SERVING_PORT": str(port),
        "DEVOPSGPT_SERVING_TRACKING_URI": tracking_uri,
    }
    command = [sys.executable, "-m", "devopsgpt_serving"]
    return Server("service", command, port, "/api/healthz", home.logs / "serving.log", environment)


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_ports_free(servers: Sequence[Server]) -> None:
    """raises: ProcessError for a taken port, with the setting that changes it"""
    for server in servers:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, server.port))
            except OSError:
                option = f"--{server.name.lower()}-port"
                raise ProcessError(
                    f"port {server.port} for {server.name} is taken on {HOST}; stop what listens "
                    f"there, or choose another with {option}"
                ) from None


@contextmanager
def running(
    servers: Sequence[Server], lock: int | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start servers, wait until each answers, and stop all of them at the end of the block, or of
    this process.

    lock: descriptor of a file whose lock is held until all of them have ended
    raises: ProcessError for one that ends or does not answer in time, with the end of its log
    """
    processes: list[subprocess.Popen[bytes]] = []
    keeper = Keeper(lock)
    try:
        for server in servers:
            processes.append(_start(server))
            keeper.watch(processes[-1].pid)
        for server, process in zip(servers, processes, strict=True):
            _wait_until_ready(server, process)
        yield processes
    finally:
        stop(processes)
        keeper.dismiss()


@contextmanager
def mlflow_for(settings: Settings) -> Iterator[str]:
    """The address of an MLflow server: the one that is set, or one over the home that runs until
    the block ends."""
    if settings.tracking_uri:
        yield settings.tracking_uri
        return
    server = mlflow_server(Home(settings.home).prepare(), free_port())
    with running([server]):
        yield server.url


def _start(server: Server) -> subprocess.Popen[bytes]:
    with server.log.open("ab") as log:
        # A session of its own: a Ctrl-C in the terminal reaches us alone, and we stop the servers
        # in order.
        return subprocess.Popen(
            server.command,
            cwd=server.folder,
            env=os.environ | server.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ProcessError(
                f"{server.name} ended with status {process.returncode}:\n{_tail(server.log)}"
            )
        try:
            urllib.request.urlopen(server.url + server.health_path, timeout=5).close()
            return
        except OSError:  # URLError is one
            time.sleep(0.2)
    raise ProcessError(
        f"{server.name} does not answer at {server.url} after {READY_DEADLINE_S:.0f} "
        f"s:\n{_tail(server.log)}"
    )


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and everything that they started: asked first, killed after a while."""
    for process in reversed(processes):
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_DEADLINE_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)  # also what outlived the first of the group
        process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
