import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.pretrained import FILES, PRETRAINED, fetch_pretrained
from devopsgpt_pipeline.training.prepare import initial_checkpoint

REVISION = PRETRAINED["gpt2-medium"].revision  # a size whose sha256 the hub states
OTHER = "1" * 40  # the commit that `distilgpt2` stands for on the hub below
NOWHERE = "http://127.0.0.1:9"
WEIGHTS = FILES[-1]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs: what a name stands for, files, ranges of
    them."""

    state = None

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.state.log.append((self.path, self.headers["Range"]))
        if self.path.startswith("/api/models/"):
            self.look_up()
        else:
            self.answer(with_body=True)

    def look_up(self):
        known = re.match(r"/api/models/distilgpt2(/revision/(main|v1))?(\?.*)?$", self.path)
        if not known:
            self.send_error(404)
            return
        files = [{"rfilename": name} for name in self.state.listed]
        body = json.dumps({"id": "distilbert/distilgpt2", "sha": OTHER, "siblings": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, with_body):
        found = re.match(r"/(.+)/resolve/(\w+)/([\w.]+)$", self.path)
        path = self.state.folder / found[3]
        if (found[1], found[2]) not in self.state.repositories or not path.exists():
            self.send_error(404)
            return
        body = path.read_bytes()
        digest = (
            self.state.declared
            if found[3] == WEIGHTS and self.state.declared
            else hashlib.sha256(body).hexdigest()
        )
        start = int(re.match(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", found[2])
        self.send_header("ETag", f'"{digest}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if not with_body:
            return
        if found[3] == WEIGHTS and self.state.breaks_at:
            self.wfile.write(body[start : self.state.breaks_at])
            self.wfile.flush()
            self.state.broken.set()
            self.state.mended.wait(60)
            return
        self.wfile.write(body[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(checkpoint_folder):
    state = SimpleNamespace(
        folder=checkpoint_folder,
        declared=None,
        breaks_at=0,
        broken=threading.Event(),
        mended=threading.Event(),
        log=[],
        listed=[*FILES, "README.md"],
        repositories=[("openai-community/gpt2-medium", REVISION), ("distilbert/distilgpt2", OTHER)],
    )
    (checkpoint_folder / "training.json").unlink()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (Hub,), {"state": state}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    state.mended.set()
    server.shutdown()
    server.server_close()


SIZE = (
    "import sys; from pathlib import Path\n"
    "from devopsgpt_pipeline.hub.pretrained import fetch_pretrained\n"
    "try: print(fetch_pretrained('gpt2-medium', Path(sys.argv[1])))\n"
    "except (ConnectionError, ValueError) as error: print(type(error).__name__, error)\n"
)
NAME = (
    "import sys; from pathlib import Path\n"
    "from devopsgpt_pipeline.hub.pretrained import fetch_from_hub\n"
    "try: print(*fetch_from_hub(sys.argv[2], Path(sys.argv[1])))\n"
    "except (ConnectionError, ValueError) as error: print(type(error).__name__, error)\n"
)
INIT_FROM = (
    "import sys; from pathlib import Path\n"
    "from devopsgpt_pipeline.training.prepare import initial_checkpoint\n"
    "from devopsgpt_pipeline.home import Home\n"
    "initial = initial_checkpoint(Home(Path(sys.argv[1])), None, sys.argv[2])\n"
    "print(initial.source, initial.folder)\n"
)


def start(code, endpoint, *arguments):
    """In a process of its own: the hub's client reads HF_ENDPOINT when it is imported."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def fetch(code, endpoint, *arguments):
    process = start(code, endpoint, *arguments)
    answer, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return answer.strip()


def test_weights_come_from_the_hub_and_load(hub, tmp_path, tiny_gpt):
    digest = fetch(SIZE, hub.url, tmp_path / "w")
    assert digest == hashlib.sha256((tmp_path / "w" / WEIGHTS).read_bytes()).hexdigest()
    assert load_checkpoint(tmp_path / "w").model.config == tiny_gpt.config


def test_another_hash_than_the_hub_states_is_refused_and_removed(hub, tmp_path):
    hub.declared = "0" * 64
    answer = fetch(SIZE, hub.url, tmp_path / "w")
    assert answer.startswith("ValueError")
    assert "should have the hash 000" in answer
    assert not list((tmp_path / "w").glob(f"*{WEIGHTS}*"))


def test_another_hash_than_the_pinned_one_is_refused_whatever_the_hub_states(hub, tmp_path):
    hub.repositories.append(("openai-community/gpt2", PRETRAINED["gpt2"].revision))
    answer = fetch(SIZE.replace("gpt2-medium", "gpt2"), hub.url, tmp_path / "w")
    assert answer.startswith("ValueError")
    assert f"should have the hash {PRETRAINED['gpt2'].sha256}" in answer
    assert not (tmp_path / "w" / WEIGHTS).exists()


@pytest.fixture
def large(hub):
    """Weights of several chunks, of which the first arrives before the server falls silent."""
    weights = os.urandom(24_000_000)
    (hub.folder / WEIGHTS).write_bytes(weights)
    hub.breaks_at = 15_000_000
    return hashlib.sha256(weights).hexdigest()


def test_a_killed_download_goes_on_where_it_was(hub, large, tmp_path):
    process = start(SIZE, hub.url, tmp_path / "w")
    partial, deadline = tmp_path / "w" / f".{WEIGHTS}.partial", time.monotonic() + 60
    while not partial.exists() or not partial.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    hub.breaks_at = 0
    hub.mended.set()
    had = partial.stat().st_size
    assert fetch(SIZE, hub.url, tmp_path / "w") == large
    assert hub.log[-1] == (
        f"/openai-community/gpt2-medium/resolve/{REVISION}/{WEIGHTS}",
        f"bytes={had}-",
    )
    assert 0 < had <= 15_000_000
    assert not partial.exists()


def test_a_download_that_breaks_goes_on_within_the_same_process(hub, large, tmp_path):
    often = "from devopsgpt_pipeline.hub import models; models.TELL_EVERY_S = 0.05\n"
    process = start(often + SIZE, hub.url, tmp_path / "w")
    assert hub.broken.wait(60)
    line = process.stderr.readline()  # where stderr is no terminal, as in a step of Dagster
    assert re.fullmatch(rf"{WEIGHTS}: [\d.]+ of 24\.0 MB \(\d+%\)\n", line)
    hub.breaks_at = 0
    hub.mended.set()  # the server closes the connection before the end
    answer, errors = process.communicate(timeout=60)
    assert answer.strip() == large, errors
    assert re.fullmatch(r"bytes=[1-9]\d+-", hub.log[-1][1])


def test_without_a_network_the_files_and_the_folder_are_named(tmp_path):
    answer = fetch(SIZE, NOWHERE, tmp_path / "w")
    assert answer.startswith("PretrainedUnavailable")
    for name in FILES:
        assert name in answer
    assert str(tmp_path / "w") in answer


def test_files_put_there_by_hand_need_no_network(checkpoint_folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    digest = fetch_pretrained("gpt2-medium", checkpoint_folder)
    assert digest == hashlib.sha256((checkpoint_folder / WEIGHTS).read_bytes()).hexdigest()
    with pytest.raises(
        ValueError, match=f"has the sha256 {digest}, and gpt2's is 248dfc.* set init_from to their"
    ):
        fetch_pretrained("gpt2", checkpoint_folder)


def test_revisions_are_commits():
    assert all(len(source.revision) == 40 for source in PRETRAINED.values())
    assert all(len(source.sha256) in (0, 64) for source in PRETRAINED.values())
    assert json.dumps(sorted(PRETRAINED)) == '["gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl"]'


def test_a_name_of_the_hub_becomes_a_commit_and_is_found_again_without_a_network(
    hub, tmp_path, tiny_gpt
):
    model, folder = fetch(NAME, hub.url, tmp_path, "distilgpt2").split()
    assert model == f"distilbert/distilgpt2@{OTHER}"
    assert folder == str(tmp_path / "distilbert--distilgpt2" / OTHER)
    assert (
        load_checkpoint(tmp_path / "distilbert--distilgpt2" / OTHER).model.config == tiny_gpt.config
    )
    assert fetch(NAME, NOWHERE, tmp_path, "distilgpt2") == f"{model} {folder}"
    assert fetch(NAME, hub.url, tmp_path, "distilgpt2@v1") == f"{model} {folder}"
    assert sum(path.endswith(WEIGHTS) for path, _ in hub.log) == 1


def test_a_training_starts_from_a_name_of_the_hub(hub, tmp_path, tiny_gpt):
    source, folder = fetch(INIT_FROM, hub.url, tmp_path, "distilgpt2").split()
    assert source == f"distilbert/distilgpt2@{OTHER}"
    assert Path(folder).is_relative_to(Home(tmp_path).hub)
    assert torch.equal(load_checkpoint(Path(folder)).model.wpe.weight, tiny_gpt.wpe.weight)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("distilgpt3", "ValueError the Hugging Face hub knows no model distilgpt3"),
        ("distilgpt2@nightly", "ValueError the Hugging Face hub knows no model distilgpt2@nightly"),
        (
            "a/b/c",
            "ValueError a model on the hub is named as in distilgpt2 or owner/name@revision, got "
            "'a/b/c'",
        ),
    ],
)
def test_a_name_that_the_hub_does_not_know_is_told(hub, tmp_path, name, told):
    assert fetch(NAME, hub.url, tmp_path, name).startswith(told)


def test_a_model_that_is_only_a_pickle_is_refused(hub, tmp_path):
    hub.listed = ["config.json", "tokenizer.json", "pytorch_model.bin"]
    assert "distilgpt2 on the hub has no model.safetensors" in fetch(
        NAME, hub.url, tmp_path, "distilgpt2"
    )
    assert not list(tmp_path.rglob("*.bin"))


def test_without_a_network_a_name_never_seen_says_what_to_do_by_hand(tmp_path):
    answer = fetch(NAME, NOWHERE, tmp_path, "distilgpt2")
    assert answer.startswith(
        "PretrainedUnavailable the Hugging Face hub could not be asked for distilgpt2"
    )
    assert (
        "put config.json, tokenizer.json, model.safetensors of distilgpt2 into a folder and set "
        "init_from" in answer
    )


def test_a_folder_that_is_no_checkpoint_is_told_before_the_hub_is_asked(tmp_path):
    home = Home(tmp_path)
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            ValueError,
            match="init_from must be a checkpoint folder, a model on the Hugging Face hub",
        ):
            initial_checkpoint(home, None, str(wrong))
    with pytest.raises(ValueError, match="materialize pretrained_gpt2 for gpt2-xl first"):
        initial_checkpoint(home, None, "gpt2-xl")


def test_initial_weights_say_exactly_what_they_are(checkpoint_folder, tmp_path):
    home = Home(tmp_path / "home")
    home.pretrained.mkdir(parents=True)
    os.symlink(checkpoint_folder, home.pretrained / "gpt2")
    assert initial_checkpoint(home, None, "scratch").source == "scratch"
    pinned = initial_checkpoint(home, None, "gpt2")
    assert pinned.source == f"openai-community/gpt2@{PRETRAINED['gpt2'].revision}"
    by_hand = initial_checkpoint(home, None, str(checkpoint_folder))
    assert by_hand.source == str(by_hand.folder) == str(checkpoint_folder.resolve())
