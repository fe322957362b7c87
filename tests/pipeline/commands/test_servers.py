import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import requests
from conftest import DEVOPSGPT, REPOSITORY

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers
from pipeline.commands.running import invoke


def test_a_taken_port_is_told_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = [
            "--mlflow-port",
            str(servers.free_port()),
            "--service-port",
            str(servers.free_port()),
        ]
        answer = invoke("up", "--dagster-port", str(port), *ports, DEVOPSGPT_HOME=str(tmp_path))
    assert answer.exit_code == 1
    assert f"port {port} for Dagster is taken" in answer.output
    assert "--dagster-port" in answer.output
    assert not (tmp_path / "logs" / "mlflow.log").exists()


def test_a_wrong_profile_is_told_before_anything_starts(tmp_path):
    answer = invoke("up", DEVOPSGPT_PROFILE="sry", DEVOPSGPT_HOME=str(tmp_path / "home"))
    assert answer.exit_code == 1
    assert "unknown profile 'sry' in DEVOPSGPT_PROFILE" in answer.output
    assert not (tmp_path / "home").exists()


def test_a_server_that_ends_at_once_is_told_with_its_log(tmp_path):
    home = Home(tmp_path).prepare()
    command = [sys.executable, "-c", "print('no such option'); raise SystemExit(2)"]
    server = servers.Server("MLflow", command, servers.free_port(), "/", home.logs / "x.log")
    wanted = "MLflow ended with status 2:\nno such option"
    with pytest.raises(servers.ProcessError, match=wanted), servers.running([server]):
        pass


def test_up_starts_all_three_and_one_ctrl_c_stops_them(tmp_path):
    ports = [servers.free_port() for _ in range(3)]
    options = zip(
        ("--dagster-port", "--mlflow-port", "--service-port"), map(str, ports), strict=True
    )
    environment = os.environ | {"DEVOPSGPT_HOME": str(tmp_path)}
    up = subprocess.Popen(
        [*DEVOPSGPT, "up", *(word for option in options for word in option)],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        for line in up.stdout:
            if "Ctrl-C stops all three" in line:
                break
            assert time.monotonic() < deadline
        started = psutil.Process(up.pid).children(recursive=True)
        assert len(started) >= 3
        assert requests.get(f"http://127.0.0.1:{ports[0]}/server_info", timeout=10).ok
        assert requests.get(f"http://127.0.0.1:{ports[1]}/health", timeout=10).ok
        assert requests.get(f"http://127.0.0.1:{ports[2]}/api/healthz", timeout=10).json() == {
            "api_healthy": True
        }
        # no champion yet
        assert (
            requests.get(f"http://127.0.0.1:{ports[2]}/api/readyz", timeout=10).status_code == 503
        )
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
        up.stdout.close()
    assert up.returncode == 0
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
