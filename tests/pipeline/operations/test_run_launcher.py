import json
import subprocess
import sys
import time

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from devopsgpt_pipeline.local.servers import free_port

JOBS = """
import dagster as dg

@dg.op
def wait():
    pass

@dg.job
def waiting():
    wait()
"""


@dg.job
def waiting():
    pass


@pytest.fixture
def instance(tmp_path):
    launcher = {
        "module": "devopsgpt_pipeline.operations.run_launcher",
        "class": "WatchedRunLauncher",
    }
    overrides = {"run_launcher": launcher}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        yield instance


@pytest.fixture(scope="module")
def code_server(tmp_path_factory):
    """The port of a real code server, which runs nothing."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "jobs.py").write_text(JOBS)
    port = free_port()
    command = [sys.executable, "-m", "dagster", "api", "grpc", "--python-file", "jobs.py"]
    alive = [sys.executable, "-m", "dagster", "api", "grpc-health-check", "--port", str(port)]
    server = subprocess.Popen([*command, "--port", str(port)], cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(alive, capture_output=True).returncode:
            assert server.poll() is None
            assert time.monotonic() < deadline
        yield port
    finally:
        server.kill()
        server.wait()


def health(instance, server=None):
    tags = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "port": server})} if server else {}
    run = instance.create_run_for_job(waiting, status=dg.DagsterRunStatus.STARTED, tags=tags)
    return instance.run_launcher.check_run_worker_health(run)


def test_a_run_that_its_code_server_does_not_have_is_gone(instance, code_server):
    assert instance.run_launcher.supports_check_run_worker_health
    found = health(instance, code_server)
    assert found.status == WorkerStatus.NOT_FOUND
    assert "does not have it" in found.msg


def test_a_code_server_that_does_not_answer_is_asked_again(instance):
    found = health(instance, free_port())
    assert found.status == WorkerStatus.RUNNING
    assert "does not answer" in found.msg


def test_a_run_of_no_code_server_is_left_alone(instance):
    assert health(instance).status == WorkerStatus.RUNNING
