"""What every room's tests share: where shared data lies, and a tiny GPT."""

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DEVOPSGPT = [sys.executable, "-m", "devopsgpt_pipeline.cli"]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

# Two processes of toy networks on two cores: spinning threads made steps 10 times slower, and tests
# ran out of time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if (SHARED_DATA / "tiktoken").is_dir():
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(SHARED_DATA / "tiktoken"))


def shared_file(name: str) -> Path:
    """A file of the shared test data, or a skip that says what is missing."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"shared test data {name} is not beside this checkout")
    return path


@pytest.fixture(scope="module", autouse=True)
def _environment_ends_with_the_module():
    """What a service or a trainer set in this process (MLflow's patience) is not for the next
    file's tests."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def gpt2_tokenizer():
    from devopsgpt_model.tokenizer import Tokenizer, TokenizerError

    try:
        return Tokenizer.gpt2()
    except TokenizerError as error:
        pytest.skip(f"GPT-2's tokenizer files are not to be had: {error}")


@pytest.fixture(scope="session")
def bpe_tokenizer():
    from devopsgpt_pipeline.datasets.bpe import train_bpe

    text = "the service answers, the service waits; a slow service is a broken service. " * 40
    return train_bpe(
        [text, "naïve café — “quoted” text, 12,345 times\n\n    indented()\n" * 20], 400
    )


@pytest.fixture
def tiny_gpt():
    """A seeded network of 2 layers for the plain-bytes vocabulary."""
    from devopsgpt_model.config import GPTConfig
    from devopsgpt_model.gpt import GPT

    config = GPTConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=32)
    return GPT(config).init_weights(seed=7).eval()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory):
    """A real MLflow server with an empty registry, as `devopsgpt up` starts it."""
    from devopsgpt_pipeline.home import Home
    from devopsgpt_pipeline.local import servers

    home = Home(tmp_path_factory.mktemp("mlflow-home")).prepare()
    server = servers.mlflow_server(home, servers.free_port())
    with servers.running([server]):
        yield server


@pytest.fixture
def registry(mlflow_server, monkeypatch):
    """A client of the server, its registered model removed before and after the test."""
    from mlflow.exceptions import MlflowException

    from devopsgpt_pipeline.tracking.client import MODEL_NAME, connect

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    client = connect(mlflow_server.url)

    def empty():
        try:
            client.delete_registered_model(MODEL_NAME)
        except MlflowException as error:
            assert error.error_code == "RESOURCE_DOES_NOT_EXIST", error

    empty()
    yield client
    empty()


@pytest.fixture
def checkpoint_folder(tiny_gpt, tmp_path):
    """A saved tiny checkpoint."""
    from devopsgpt_model.checkpoint import save_checkpoint
    from devopsgpt_model.tokenizer import Tokenizer

    save_checkpoint(tmp_path / "checkpoint", tiny_gpt, Tokenizer.plain_bytes(), {"step": 1})
    return tmp_path / "checkpoint"
