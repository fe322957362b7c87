"""Fixtures of the service's tests: versions in a real registry, a service on a real port, trouble
on demand."""

import hashlib
import json
import os
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from prometheus_client.parser import text_string_to_metric_families

from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.app import create_app
from devopsgpt_serving.server import Server
from devopsgpt_serving.settings import Settings
from serving.versions.trouble import Proxy

BLOCK_SIZE = 128


@pytest.fixture(scope="module", autouse=True)
def _little_patience(_environment_ends_with_the_module):
    """Services of these tests give a registry in trouble up after a second."""
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def make_model(seed=1, block_size=BLOCK_SIZE, endless=True, n_embd=32):
    config = GPTConfig(vocab_size=257, block_size=block_size, n_layer=2, n_head=2, n_embd=n_embd)
    model = GPT(config).init_weights(seed).eval()
    # answers of random weights would end at random: keep end-of-text from being drawn
    with torch.no_grad():
        model.ln_f.bias[0] = 10.0
        model.wte.weight[256] = 0.0
        model.wte.weight[256, 0] = -3.0 if endless else 3.0
    return model


class Shelf:
    """One registered model of its own in the real registry."""

    def __init__(self, url):
        self.url = url
        self.name = f"devopsgpt-{uuid.uuid4().hex[:8]}"
        self.client = MlflowClient(tracking_uri=url, registry_uri=url)
        self.client.create_registered_model(self.name)
        experiment = self.client.get_experiment_by_name("serving-tests")
        self.experiment = (
            experiment.experiment_id
            if experiment
            else self.client.create_experiment("serving-tests")
        )

    def publish(self, model=None, seed=1, champion=True, spoil=None, documents=None):
        """A new version by the contract. documents: texts beside the weights; spoil: a function
        that damages the staged folder, after the manifest
        """
        run = self.client.create_run(self.experiment).info.run_id
        logged = self.client.create_logged_model(self.experiment, name=self.name, source_run_id=run)
        with tempfile.TemporaryDirectory() as place:
            staging = Path(place)
            save_checkpoint(
                staging / "checkpoint",
                model or make_model(seed),
                Tokenizer.plain_bytes(),
                {"seed": seed},
            )
            (staging / "checkpoint").resolve().rename(staging / "model")
            (staging / "checkpoint").unlink()
            for name, text in (documents or {}).items():
                (staging / "model" / name).write_text(text)
            self._describe(staging, run, logged.model_id)
            if spoil:
                spoil(staging)
            self.client.log_model_artifacts(logged.model_id, str(staging))
        self.client.finalize_logged_model(logged.model_id, "READY")
        tags = {"val_loss": "1.5", "git_commit": "abc", "mlflow_run_id": run}
        version = self.client.create_model_version(
            self.name,
            source=f"models:/{logged.model_id}",
            run_id=run,
            tags=tags,
            model_id=logged.model_id,
        ).version
        if champion:
            self.promote(version)
        return str(version)

    def _describe(self, staging, run, model_id):
        files = {
            f"model/{path.name}": {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
            }
            for path in (staging / "model").iterdir()
        }
        (staging / "manifest.json").write_text(json.dumps({"files": files}))
        text = Schema([ColSpec(DataType.string, "text")])
        model = Model(artifact_path=self.name, run_id=run, model_uuid=model_id)
        model.signature = ModelSignature(inputs=text, outputs=text)
        model.save(str(staging / "MLmodel"))

    def promote(self, version):
        self.client.set_registered_model_alias(self.name, "champion", version)


class RunningService:
    """A service on its own port, and a client of it."""

    def __init__(self, app, url):
        self.app, self.url = app, url
        self.service = app.state.service
        self.http = httpx.Client(base_url=url, timeout=30)

    def wait_for(self, version, seconds=20.0):
        until(lambda: self.ready().get("version") == version, seconds, self.ready)

    def ready(self):
        keys = self.service.settings.accepted_keys()
        headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        return self.http.get("/api/readyz", headers=headers).json()

    def metric(self, name, **labels):
        """The value of one series of this service's metrics; None where there is none."""
        labels = {"model_name": self.name} | labels
        text = self.http.get("/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if (sample.name, sample.labels) == (f"devopsgpt:{name}", labels):
                    return sample.value
        return None

    def complete(self, prompt, **fields):
        return self.http.post(
            "/v1/completions", json={"model": self.name, "prompt": prompt} | fields
        )

    def generate(self, prompt, **fields):
        return self.http.post("/api/generate", json={"prompt": prompt} | fields)

    @property
    def name(self):
        return self.service.settings.model_name


def until(condition, seconds=60.0, say=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {say()}"
        time.sleep(0.02)


@contextmanager
def serving(tmp_path, **settings):
    """A real uvicorn in a thread, over the given settings."""
    defaults = dict(
        cache_dir=tmp_path / "cache",
        poll_interval_s=0.1,
        registry_timeout_s=2,
        device="cpu",
        precision="float32",
        port=0,
    )
    app = create_app(Settings(**(defaults | settings)))
    server = Server(app, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    running = RunningService(app, f"http://127.0.0.1:{port}")
    try:
        yield running
    finally:
        running.http.close()
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the service did not stop"


@pytest.fixture
def shelf(mlflow_server):
    return Shelf(mlflow_server.url)


@pytest.fixture(scope="session")
def common_shelf(mlflow_server):
    """A registered model with one version, which no test changes."""
    shelf = Shelf(mlflow_server.url)
    shelf.publish(seed=1)
    return shelf


@pytest.fixture(scope="session")
def service(common_shelf, tmp_path_factory):
    """A service that no test disturbs."""
    place = tmp_path_factory.mktemp("service")
    with serving(
        place, tracking_uri=common_shelf.url, model_name=common_shelf.name, max_batch_size=4
    ) as running:
        running.wait_for("1")
        yield running


@pytest.fixture
def proxy(mlflow_server):
    """A way to the registry that can be made to fail."""
    proxy = Proxy(mlflow_server.port)
    yield proxy
    proxy.close()
