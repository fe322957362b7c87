"""What is served, loaded elsewhere: MLflow's own flavors, transformers, llama.cpp."""

import json
import os
import socket
import subprocess
import sys

import httpx
import pytest
import torch
from click.testing import CliRunner

from devopsgpt_model.checkpoint import load_checkpoint, save_checkpoint
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.generate import stream_ids
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.datasets.bpe import train_bpe
from devopsgpt_pipeline.registry.export import export_version
from devopsgpt_pipeline.registry.gguf_file import write_gguf
from devopsgpt_pipeline.registry.version_lineage import NoSuchModel
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME
from devopsgpt_pipeline.tracking.versions import publish

PROMPT = "the pager rings"
TEXT = "the pager rings at night and the service answers. an error budget is spent slowly. " * 40


@pytest.fixture(scope="module")
def bpe_checkpoint(tmp_path_factory):
    """A model with a BPE of its own, whose likeliest tokens are clear."""
    tokenizer = train_bpe([TEXT], 300)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, block_size=64, n_layer=2, n_head=2, n_embd=32
    )
    model = GPT(config).init_weights(3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    folder = tmp_path_factory.mktemp("bpe") / "checkpoint"
    save_checkpoint(folder, model, tokenizer, {"step": 1})
    return folder


@pytest.fixture
def champion(registry, bpe_checkpoint, run_id):
    version = publish(registry, bpe_checkpoint, run_id, {"val_loss": "1.5"}, "a test")
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, version)
    return version


def greedy(folder, count=12):
    """What our own code continues PROMPT with."""
    loaded = load_checkpoint(folder)
    ids = loaded.tokenizer.encode(PROMPT)
    eot = loaded.tokenizer.eot_id
    new = stream_ids(loaded.model, ids, count, eot_id=eot, seed=1, temperature=0.0)
    return loaded.tokenizer.decode(list(new))


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
def test_mlflows_own_flavors_load_a_version(registry, champion, bpe_checkpoint):
    import mlflow

    mlflow.set_tracking_uri(registry.tracking_uri)
    expected = PROMPT + greedy(bpe_checkpoint)
    place = f"models:/{MODEL_NAME}/{champion}"
    pipeline = mlflow.transformers.load_model(place)
    (told,) = pipeline(PROMPT, max_new_tokens=12, do_sample=False)
    assert told["generated_text"] == expected
    assert pipeline(PROMPT)[0]["generated_text"].startswith(PROMPT), "no limit is needed"
    loaded = mlflow.pyfunc.load_model(place)
    params = {"max_new_tokens": 12, "do_sample": False}
    assert loaded.predict([PROMPT], params=params) == [expected]
    assert loaded.predict(PROMPT)[0].startswith(PROMPT)


@pytest.mark.slow
def test_mlflow_models_serve_answers(registry, champion, bpe_checkpoint):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "models",
        "serve",
        "--env-manager",
        "local",
        "-m",
        f"models:/{MODEL_NAME}/{champion}",
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command, "--port", str(port)],
        env=os.environ | {"MLFLOW_TRACKING_URI": registry.tracking_uri},
        start_new_session=True,
    )
    try:
        transport = httpx.HTTPTransport(retries=0)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport) as client:
            _wait_until_it_answers(client, server)
            asked = {"inputs": [PROMPT], "params": {"max_new_tokens": 12, "do_sample": False}}
            told = client.post("/invocations", json=asked, timeout=60).json()
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)
    assert told == {"predictions": [PROMPT + greedy(bpe_checkpoint)]}


def _wait_until_it_answers(client, server):
    import time

    deadline = time.monotonic() + 120
    while True:
        try:
            if client.get("/ping", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert server.poll() is None, "mlflow models serve ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_exported_folder_is_the_version(registry, champion, bpe_checkpoint, tmp_path):
    place = export_version(registry, CHAMPION, tmp_path / "out")
    assert greedy(place) == greedy(bpe_checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing else is left"
    with pytest.raises(ValueError, match="exists already"):
        export_version(registry, CHAMPION, place)
    with pytest.raises(NoSuchModel):
        export_version(registry, "nobody", tmp_path / "other")


def test_the_command_names_what_it_wrote(registry, champion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.tracking_uri)
    told = CliRunner().invoke(main, ["export"])
    assert told.output == f"version champion is in devopsgpt-{champion}\n"
    told = CliRunner().invoke(main, ["export", "champion", "--gguf", "--precision", "q8_0"])
    assert told.output == f"version champion is in devopsgpt-{champion}.gguf\n"
    again = CliRunner().invoke(main, ["export", "champion", "--gguf"])
    assert again.exit_code == 1
    assert "exists already; name another place, or remove it" in again.output


@pytest.mark.parametrize("precision", ["f32", "bf16", "q8_0"])
def test_a_gguf_file_holds_weights_and_vocabulary(bpe_checkpoint, tmp_path, precision):
    import gguf

    checkpoint = load_checkpoint(bpe_checkpoint)
    path = tmp_path / "model.gguf"
    write_gguf(checkpoint, path, precision)
    reader = gguf.GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == checkpoint.tokenizer.vocab_size
    assert tokens[-1] == "<|endoftext|>"
    assert len(reader.fields["tokenizer.ggml.merges"].contents()) == len(
        checkpoint.tokenizer.merges
    )
    assert reader.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert len(reader.tensors) == 4 + 12 * 2
    with pytest.raises(ValueError, match="precision must be one of"):
        write_gguf(checkpoint, path, "f8")


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_llama_cpp_continues_as_we_do(bpe_checkpoint, tmp_path, kind):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder = bpe_checkpoint
    if kind == "bytes":
        config = GPTConfig(vocab_size=257, block_size=64, n_layer=2, n_head=2, n_embd=32)
        folder = tmp_path / "checkpoint"
        model = GPT(config).init_weights(5).eval()
        save_checkpoint(folder, model, Tokenizer.plain_bytes(), {"step": 1})
    checkpoint = load_checkpoint(folder)
    write_gguf(checkpoint, tmp_path / "model.gguf")
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, verbose=False)
    text = "The pager rings at 3am,\n  don't panic"
    assert theirs.tokenize(text.encode(), add_bos=False) == checkpoint.tokenizer.encode(text)
    special = theirs.tokenize(b"a<|endoftext|>b", add_bos=False, special=True)
    assert special == checkpoint.tokenizer.encode_special("a<|endoftext|>b")
    told = theirs.create_completion(PROMPT, max_tokens=12, temperature=0.0)
    assert told["choices"][0]["text"] == greedy(folder)


def test_a_versions_mlmodel_names_nothing_that_is_executed(registry, champion, tmp_path):
    place = export_version(registry, CHAMPION, tmp_path / "out")
    config = json.loads((place / "config.json").read_text())
    assert "auto_map" not in config
    generation = json.loads((place / "generation_config.json").read_text())
    assert generation["max_length"] == config["n_positions"]
