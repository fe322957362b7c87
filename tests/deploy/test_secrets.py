"""A secret that is planted wherever one is taken shows up nowhere: logs, metadata, parameters,
artifacts, errors."""

import os
import secrets
import subprocess
import sys
from functools import partial

import httpx
import pytest
from chaos.world import World, until

from devopsgpt_pipeline.tracking.client import TrackingUnavailable, connect
from devopsgpt_serving.errors import RegistryUnavailable
from devopsgpt_serving.versions.registry import Registry

SECRET = secrets.token_hex(16)
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "HF_TOKEN": SECRET,
    "MLFLOW_TRACKING_USERNAME": "someone",
    "MLFLOW_TRACKING_PASSWORD": SECRET,
    "DEVOPSGPT_SERVING_API_KEYS": SECRET,
    "DEVOPSGPT_SERVING_VLLM_API_KEY": SECRET,
    "DEVOPSGPT_SERVING_LOG_LEVEL": "debug",
}


def holding(root, text=SECRET):
    """Files below a folder that hold a text, whatever they are."""
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if text.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_planted_secret_is_in_nothing_that_a_chain_and_its_service_write(tmp_path):
    world = World(tmp_path)
    address = world.url.replace("://", f"://someone:{SECRET}@")
    world.environment |= PLANTED
    world.servers["service"].environment["DEVOPSGPT_SERVING_TRACKING_URI"] = address
    try:
        world.start("mlflow")
        world.start("service")
        plain, world.url = world.url, address
        chain = world.chain(seed=0)
        assert chain.wait(150) == 0, (tmp_path / "chain.log").read_text()[-3000:]
        until(
            lambda: httpx.get(f"{world.servers['service'].url}/api/readyz").status_code == 200, 30
        )
        for key, status in ((SECRET, 200), ("wrong", 401)):
            answer = httpx.post(
                f"{world.servers['service'].url}/api/generate",
                json={"prompt": "x", "max_token_len": 2},
                headers={"Authorization": f"Bearer {key}"},
            )
            assert answer.status_code == status
            assert SECRET not in answer.text
        world.kill("mlflow")  # errors that name the registry
        ready = partial(
            httpx.get,
            f"{world.servers['service'].url}/api/readyz",
            headers={"Authorization": f"Bearer {SECRET}"},
        )
        until(lambda: not ready().json()["registry_up"], 30)
        assert SECRET not in ready().text
        failed = world.chain(seed=1)
        assert failed.wait(150) != 0
        assert plain.split("//")[1] in (tmp_path / "chain.log").read_text()
    finally:
        world.close()
    assert holding(tmp_path) == []
    (tmp_path / "planted").write_text(f"... {SECRET} ...")
    assert holding(tmp_path) == [str(tmp_path / "planted")]


def test_an_address_with_a_password_is_told_without_it():
    address = f"http://someone:{SECRET}@127.0.0.1:9"
    with pytest.raises(TrackingUnavailable, match=r"someone:\*\*\*@127") as error:
        connect(address)
    assert SECRET not in str(error.value)
    assert error.value.__cause__ is None
    with pytest.raises(RegistryUnavailable, match=r"someone:\*\*\*@127") as error:
        Registry(address, "m", "champion", 1).resolve()
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (
            ["-m", "devopsgpt_serving"],
            {"DEVOPSGPT_SERVING_API_KEYS": SECRET, "DEVOPSGPT_SERVING_PORT": "many"},
        ),
        (
            ["-m", "devopsgpt_serving"],
            {"DEVOPSGPT_SERVING_VLLM_API_KEY": SECRET, "DEVOPSGPT_SERVING_HOST": "0.0.0.0"},
        ),
        (
            ["-m", "devopsgpt_pipeline.cli", "backup", "/nonexistent/b.tar"],
            {"DAGSTER_POSTGRES_URL": f"postgresql://dagster:{SECRET}@127.0.0.1:9/dagster"},
        ),
    ],
)
def test_an_error_at_the_start_names_no_secret(command, wrong, tmp_path):
    (tmp_path / "dagster").mkdir()
    environment = os.environ | {"DEVOPSGPT_HOME": str(tmp_path)} | wrong
    answer = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert answer.stderr
    assert SECRET not in answer.stdout + answer.stderr
