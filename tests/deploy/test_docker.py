"""`docker compose up` itself, where an engine and the two images are: chain, kill -9 of each
container, chain again.

    docker compose build && pytest -m slow tests/deploy/test_docker.py

The other tests of this folder run the same processes without containers; what only containers have
is looked at here: networks, volumes that begin empty and belong to another user, read-only roots,
dropped capabilities, health as Docker sees it.
"""

import json
import os
import shutil
import subprocess
import time

import httpx
import pytest

from deploy.compose import COMPOSE_FILE, load
from deploy.dagster_api import STATUS, ask, run_chain
from devopsgpt_pipeline.local import servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PORTS = {
    "webserver": "DAGSTER_PUBLISHED_PORT",
    "mlflow": "MLFLOW_PUBLISHED_PORT",
    "serving": "SERVICE_PUBLISHED_PORT",
}
PROXY_PORTS = {"proxy": "PROXY_DAGSTER_PORT", "proxy-mlflow": "PROXY_MLFLOW_PORT"}
API_PORT = {"proxy-service": "PROXY_SERVICE_PORT"}
TABLES = [
    ("dagster", "runs"),
    ("dagster", "event_logs"),
    ("mlflow", "runs"),
    ("mlflow", "model_versions"),
]


def here(image):
    return (
        subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0
    )


class Containers:
    """The compose file under a project of its own, with the proxy where its image is."""

    def __init__(self, env_file, variables, place):
        self.place = place
        self.ports = {name: servers.free_port() for name in PORTS | PROXY_PORTS | API_PORT}
        services = load(variables)["services"]
        with_proxy = here(services["proxy"]["image"])
        self.names = [name for name, each in services.items() if not each.get("profiles")] + [
            "proxy"
        ] * with_proxy
        profile = ["--profile", "proxy"] if with_proxy else []
        files = ["--file", COMPOSE_FILE, "--env-file", env_file]
        self.command = ["docker", "compose", "--project-name", "devopsgpt-test", *files, *profile]
        published = {
            variable: str(self.ports[name])
            for name, variable in (PORTS | PROXY_PORTS | API_PORT).items()
        }
        self.environment = os.environ | published | {"CODE_CPUS": "2", "SERVING_CPUS": "2"}

    def compose(self, *words, check=True):
        done = subprocess.run(
            [*self.command, *words], env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, (
            f"{words}: {done.stdout}{done.stderr}{self.logs()}"
        )
        return done.stdout

    def logs(self):
        return subprocess.run(
            [*self.command, "logs", "--no-color"],
            env=self.environment,
            capture_output=True,
            text=True,
        ).stdout

    def url(self, name):
        return f"http://127.0.0.1:{self.ports[name]}"

    def up(self):
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "240")

    def kill(self, name):
        """Docker would start it again by itself, had it not been asked to kill it."""
        self.compose("kill", "--signal", "KILL", name)

    def counts(self):
        query = ["psql", "--username", "postgres", "-At", "-c"]
        return {
            (database, table): int(
                self.compose(
                    "exec",
                    "-T",
                    "postgres",
                    *query,
                    f"select count(*) from {table}",
                    "-d",
                    database,
                )
            )
            for database, table in TABLES
        }

    def down(self):
        self.compose("--profile", "backup", "down", "--volumes", "--timeout", "5", check=False)


@pytest.fixture
def containers(env_file, variables, tmp_path):
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        pytest.skip("no container engine answers")
    services = load(variables)["services"]
    for image in {services[name]["image"] for name in ("postgres", "code", "serving")}:
        if not here(image):
            pytest.skip(f"no image {image}: docker compose build")
    containers = Containers(env_file, variables, tmp_path)
    containers.down()
    try:
        containers.up()
        yield containers
    finally:
        containers.down()


def wait_until_served(containers):
    deadline = time.monotonic() + 60
    while httpx.get(f"{containers.url('serving')}/api/readyz", timeout=10).status_code != 200:
        assert time.monotonic() < deadline, containers.logs()
        time.sleep(0.5)


def test_the_chain_in_containers_survives_the_death_of_each(containers, variables):
    first = run_chain(containers, seed=1)
    wait_until_served(containers)
    before = containers.counts()
    assert all(before.values())
    for name in containers.names:
        containers.kill(name)
        containers.up()
    after = containers.counts()
    assert [table for table in before if after[table] < before[table]] == []
    assert ask(containers, STATUS, id=first)["runOrError"]["status"] == "SUCCESS"
    wait_until_served(containers)
    run_chain(containers, seed=2)
    assert containers.counts()["mlflow", "model_versions"] == 2
    key = {"Authorization": f"Bearer {variables['DEVOPSGPT_API_KEY']}"}
    question = {"prompt": "The backup", "max_token_len": 5}
    assert (
        httpx.post(
            f"{containers.url('serving')}/api/generate", json=question, headers=key
        ).status_code
        == 200
    )
    assert httpx.post(f"{containers.url('serving')}/api/generate", json=question).status_code == 401
    look_inside(containers)
    look_through_the_proxy(containers, variables)
    logs = containers.logs()
    assert [name for name, value in variables.items() if value in logs] == []
    begin_anew_from_a_backup(containers)


def begin_anew_from_a_backup(containers):
    """Every volume but the backups' is lost; what was there is there again, and served."""
    containers.compose("run", "--rm", "backup")
    before = containers.counts()
    (name,) = containers.compose("run", "--rm", "--entrypoint", "ls", "backup", "/backups").split()
    containers.compose("down", "--timeout", "5")
    lost = [f"devopsgpt-test_{volume}" for volume in ("postgres", "artifacts", "home", "serving")]
    subprocess.run(["docker", "volume", "rm", *lost], check=True, capture_output=True)
    containers.compose("run", "--rm", "backup", "restore", f"/backups/{name}")
    containers.up()
    wait_until_served(containers)
    after = containers.counts()
    assert [table for table in before if after[table] < before[table]] == []


def look_inside(containers):
    """Nobody is root, nothing but volumes and /tmp is written, and a training that compiles can."""
    for name in containers.names:
        assert containers.compose("exec", "-T", name, "id", "-u").strip() != "0"
        touched = "touch /x 2>/dev/null || echo refused"
        assert containers.compose("exec", "-T", name, "sh", "-c", touched).strip() == "refused", (
            name
        )
    place = ["python", "-c", "import tempfile; print(tempfile.gettempdir())"]  # it is written to
    for name, folder in (("code", "/data/tmp"), ("mlflow", "/tmp")):
        assert containers.compose("exec", "-T", name, *place).strip() == folder
    known = "import socket, sys; socket.getaddrinfo(sys.argv[1], 1)"
    for name, reached in (("mlflow", True), ("webserver", False), ("postgres", False)):
        asked = ["exec", "-T", "serving", "python", "-c", f"{known}; print('known')", name]
        assert (containers.compose(*asked, check=False).strip() == "known") is reached, name
    program = (
        "import torch; print(torch.compile(lambda x: (2 * x + 1).sin())(torch.zeros(9)).shape)"
    )
    cache = "TORCHINDUCTOR_CACHE_DIR=/data/compiled"
    run = ["exec", "-T", "-e", cache, "code", "python", "-W", "ignore", "-c", program]
    assert "9" in containers.compose(*run)
    states = containers.compose("ps", "--format", "json").splitlines()
    healthy = {state["Service"]: state["Health"] for state in map(json.loads, states)}
    assert set(healthy.values()) == {"healthy"}, healthy


def look_through_the_proxy(containers, variables):
    if "proxy" not in containers.names:
        return
    for name in PROXY_PORTS:
        address = f"https://localhost:{containers.ports[name]}/"
        # its own certificate; test_proxy.py checks that one
        with httpx.Client(verify=False) as client:
            assert client.get(address).status_code == 401
            foreign = {"Origin": "https://elsewhere.example"}
            operator = ("operator", variables["PROXY_PASSWORD"])
            assert client.post(address, headers=foreign, auth=operator).status_code == 403
            assert (
                client.get(address, auth=("operator", variables["PROXY_PASSWORD"])).status_code
                == 200
            )
    with httpx.Client(verify=False) as client:
        api = f"https://localhost:{containers.ports['proxy-service']}/api/healthz"
        assert client.get(api).status_code == 200
