import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_pipeline.sources.pretrained import FILES, PRETRAINED, fetch_pretrained

REVISION = PRETRAINED["gpt2"].revision


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs: files of a repository at a revision."""

    folder, declared = None, None

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        name = self.path.rpartition("/")[2]
        path = self.folder / name
        if not self.path.startswith(f"/openai-community/gpt2/resolve/{REVISION}/") or not path.exists():
            self.send_error(404)
            return
        body = path.read_bytes()
        digest = self.declared if name == FILES[-1] and self.declared else hashlib.sha256(body).hexdigest()
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(checkpoint_folder):
    handler = type("Hub", (Hub,), {"folder": checkpoint_folder, "declared": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.handler = handler
    yield server
    server.shutdown()
    server.server_close()


def fetch(folder, endpoint):
    """In a process of its own: the hub's client reads HF_ENDPOINT when it is imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "from devopsgpt_pipeline.sources.pretrained import fetch_pretrained\n"
        "try: print(fetch_pretrained('gpt2', Path(sys.argv[1])))\n"
        "except (ConnectionError, ValueError) as error: print(type(error).__name__, error)\n"
    )
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environment, timeout=100
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def test_weights_come_from_the_hub_and_load(hub, tmp_path, tiny_gpt):
    digest = fetch(tmp_path / "gpt2", f"http://127.0.0.1:{hub.server_port}")
    assert digest == hashlib.sha256((tmp_path / "gpt2" / "model.safetensors").read_bytes()).hexdigest()
    assert load_checkpoint(tmp_path / "gpt2").model.config == tiny_gpt.config


def test_another_hash_than_declared_is_refused_and_removed(hub, tmp_path):
    hub.handler.declared = "0" * 64
    answer = fetch(tmp_path / "gpt2", f"http://127.0.0.1:{hub.server_port}")
    assert answer.startswith("ValueError")
    assert "the hub says 000" in answer
    assert not (tmp_path / "gpt2" / "model.safetensors").exists()


def test_without_a_network_the_files_and_the_folder_are_named(tmp_path):
    answer = fetch(tmp_path / "gpt2", "http://127.0.0.1:9")
    assert answer.startswith("PretrainedUnavailable")
    for name in FILES:
        assert name in answer
    assert str(tmp_path / "gpt2") in answer


def test_files_put_there_by_hand_need_no_network(checkpoint_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    digest = fetch_pretrained("gpt2", checkpoint_folder)
    assert digest == hashlib.sha256((checkpoint_folder / "model.safetensors").read_bytes()).hexdigest()


def test_revisions_are_commits():
    assert all(len(source.revision) == 40 for source in PRETRAINED.values())
    assert json.dumps(sorted(PRETRAINED)) == '["gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl"]'
