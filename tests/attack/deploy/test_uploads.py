"""A foreign page that uploads a file to MLflow through the proxy: Caddy and MLflow themselves, with
the compose file's settings."""

from dataclasses import replace

import httpx
import pytest
from deploy.caddy import PASSWORD
from deploy.compose import load

from deploy import caddy
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers

UPLOAD = "/api/2.0/mlflow-artifacts/artifacts/{name}"


@pytest.fixture(scope="module")
def ports():
    return caddy.ports()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("mlflow")).prepare()


@pytest.fixture(scope="module")
def mlflow(home, ports, variables):
    """MLflow's address, with the container's settings."""
    published = {"PROXY_HOST": "localhost", "PROXY_MLFLOW_PORT": str(ports["8444"])}
    environment = load(variables | published)["services"]["mlflow"]["environment"]
    settings = {key: each for key, each in environment.items() if key.startswith("MLFLOW_SERVER_")}
    server = servers.mlflow_server(home, servers.free_port())
    with servers.running([replace(server, environment=settings)]):
        yield server.url


@pytest.fixture(scope="module")
def page(mlflow, ports, tmp_path_factory):
    """MLflow's address behind the proxy."""
    address = mlflow.removeprefix("http://")
    with caddy.proxy(tmp_path_factory.mktemp("proxy"), [address] * 3, ports) as addresses:
        yield addresses[1]


def upload(address, name, **headers):
    answer = httpx.put(
        address + UPLOAD.format(name=name),
        content=b"x",
        headers={key.replace("_", "-"): value for key, value in headers.items()},
        auth=("operator", PASSWORD),
        verify=False,
        timeout=60,
    )
    return answer.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.test", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "https://evil.test"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_no_foreign_page_writes_a_file_through_the_proxy(page, home, tried, headers):
    status = upload(page, "planted", **headers)
    found = [path.name for path in home.mlflow.rglob("planted")]
    tried(f"an upload through the proxy with {headers}", f"{status}, {len(found)} files")
    assert (status, found) == (403, [])


def test_mlflow_itself_refuses_a_foreign_origin_that_reached_it(mlflow, home):
    name = {"Host": "mlflow:5000"}
    assert upload(mlflow, "planted", Origin="https://evil.test", **name) == 403
    assert list(home.mlflow.rglob("planted")) == []


def test_mlflows_own_page_uploads_through_the_proxy(page, home):
    assert upload(page, "ours", Origin=page, Sec_Fetch_Site="same-origin") == 200
    assert [path.name for path in home.mlflow.rglob("ours")] == ["ours"]
