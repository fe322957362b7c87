"""Versions that claim what they are not, do not fit, or take the process with them."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from serving.conftest import make_model, serving, until
from serving.versions.spoiling import repair_manifest

from attack.serving.raw import memory
from devopsgpt_model import threads
from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import MAX_TOKEN_BYTES, loader
from devopsgpt_serving.versions.verification import read_lineage


def config(**changes):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def number(name, at, value, dtype=None):
    """One number of a tensor is another."""

    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        key = f"transformer.{name}"
        tensors[key] = tensors[key].to(dtype) if dtype else tensors[key]
        tensors[key].view(-1)[at] = value
        save_file(tensors, folder / "model.safetensors")

    return spoil


def vocabulary(change):
    def spoil(folder):
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text())
        change(content["model"]["vocab"])
        path.write_text(json.dumps(content))

    return spoil


def header(**lies):
    """The header of the weights tells something else of wpe."""

    def spoil(folder):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + length])
        told["transformer.wpe.weight"] |= lies
        text = json.dumps(told).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return spoil


def both(*spoils):
    return lambda folder: [spoil(folder) for spoil in spoils]


def without(vocab):
    del vocab["a"]


def one_more_row(folder):
    tensors = load_file(folder / "model.safetensors")
    rows = tensors["transformer.wte.weight"]
    tensors["transformer.wte.weight"] = torch.cat([rows, rows[-1:]])
    save_file(tensors, folder / "model.safetensors")


def endless_token(vocab):
    last = vocab.pop("<|endoftext|>")
    vocab |= {"a" * (MAX_TOKEN_BYTES + 1): last, "<|endoftext|>": last + 1}


NAN, INFINITE = float("nan"), float("inf")
SPOILS = {
    "n_layer 10^6": config(n_layer=10**6),
    "n_layer 2.5": config(n_layer=2.5),
    "n_layer '2'": config(n_layer="2"),
    "n_layer of 4,000 digits": config(n_layer=10**3999),
    "n_layer -1": config(n_layer=-1),
    "n_positions 10^12": config(n_positions=10**12),
    "n_positions 10^12 in the header, too": both(
        config(n_positions=10**12), header(shape=[10**12, 32])
    ),
    "n_embd 10^9": config(n_embd=10**9),
    "n_head 3": config(n_head=3),
    "n_head 0": config(n_head=0),
    "vocab_size 256": config(vocab_size=256),
    "vocab_size 50257": config(vocab_size=50257),
    "a config that is a list": written("config.json", b"[]"),
    "a config nested without end": written("config.json", b"[" * 100_000),
    "a config that is no text": written("config.json", b"\xff\xfe\x00"),
    "no weights": written("model.safetensors", b""),
    "a header of 2^63 bytes": written("model.safetensors", b"\xff" * 7 + b"\x7f{}"),
    "a pickle in place of weights": written("model.safetensors", b"\x80\x04cos\nsystem\n."),
    "a shape that is a text": header(shape="x"),
    "a shape below zero": header(shape=[-128, -32]),
    "a number format that is a list": header(dtype=["F32"]),
    "offsets beyond the file": header(data_offsets=[0, 10**15]),
    "integers as weights": number("wpe.weight", 0, 1, torch.int32),
    "NaN in the last position": number("wpe.weight", -1, NAN),
    "infinity in a rare token": number("wte.weight", 32 * 200, INFINITE),
    "minus infinity in a bias": number("h.1.mlp.c_fc.bias", 3, -INFINITE),
    "10^300 in float64": number("h.0.attn.c_proj.weight", 5, 1e300, torch.float64),
    "weights whose logits overflow": both(
        number("ln_f.bias", 1, 3e38), number("wte.weight", 32 * 5 + 1, 1000.0)
    ),
    "a token id 98.0": vocabulary(lambda vocab: vocab.update(b=float(vocab["b"]))),
    "a token id true": vocabulary(lambda vocab: vocab.update(b=True)),
    "a token id 10^30": vocabulary(lambda vocab: vocab.update(b=10**30)),
    "a token too few": vocabulary(without),
    "a token too many": vocabulary(lambda vocab: vocab.update({"ab": 256, "<|endoftext|>": 257})),
    "an id twice": vocabulary(lambda vocab: vocab.update(b=vocab["a"])),
    "a token without an end": both(vocabulary(endless_token), config(vocab_size=258), one_more_row),
    "no tokenizer": written("tokenizer.json", b"{}"),
    "a tokenizer nested without end": written("tokenizer.json", b"[" * 100_000),
}


@pytest.fixture(scope="module")
def load():
    return loader("cpu", "float32", 2)


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "model", make_model(1), Tokenizer.plain_bytes(), {})
    return tmp_path


@pytest.mark.parametrize("what", SPOILS)
def test_a_version_that_is_not_what_it_claims_is_refused(load, folder, tried, what):
    SPOILS[what](folder / "model")
    before = memory()
    with pytest.raises(Exception) as told:  # noqa: PT011 - any refuses it; a kill does not
        load(Version("m", "1", "", 0), folder)
    assert memory() - before < 200e6
    tried(what, f"{told.type.__name__}: {str(told.value).replace(str(folder), '')[:90]}")


def test_what_they_are_spoiled_from_loads(load, folder):
    assert load(Version("m", "1", "", 0), folder).block_size == 128


LINEAGES = ['"x"', "[" * 900, '{"a": ' * 60 + "1" + "}" * 60, '{"a": NaN}', '{"a": 1e999}']


@pytest.mark.parametrize("text", [*LINEAGES, '{"a": "\\ud800"}', '{"\\udfff": 1}'])
def test_a_lineage_that_no_answer_can_hold_is_refused(folder, tried, text):
    (folder / "model" / "lineage.json").write_text(text)
    with pytest.raises(ValueError, match=r"lineage\.json"):
        read_lineage(folder)
    tried(f"lineage.json: {text[:20]}", "refused")


def repaired(spoil):
    """The manifest knows of the change."""

    def change(folder):
        spoil(folder / "model")
        repair_manifest(folder, "config.json")
        repair_manifest(folder, "model.safetensors")

    return change


@pytest.mark.parametrize("spoil", ["n_layer 2.5", "NaN in the last position"])
def test_a_restart_with_a_bad_champion_serves_the_last_good_version(shelf, tmp_path, tried, spoil):
    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    shelf.publish(seed=1)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
    shelf.publish(seed=2, spoil=repaired(SPOILS[spoil]))
    for _ in range(2):  # the second time it is in the cache
        with serving(tmp_path, **where) as service:
            until(lambda: "version 2 cannot be served" in (service.ready()["problem"] or ""))
            assert service.generate("x").json()["version"] == "1"
            assert service.service.follower.state.failed_reloads >= 1
            assert service.metric("failed_reloads_total") >= 1
    tried(f"restarts with {spoil}", "the last good version is served")


def test_a_version_larger_than_memory_is_refused_and_taken_up_once_it_fits(
    shelf, tmp_path, tried, monkeypatch
):
    def machine(kilobytes):
        root = tmp_path / "root"
        (root / "proc").mkdir(parents=True, exist_ok=True)
        (root / "proc/meminfo").write_text(f"MemAvailable: {kilobytes} kB\n")
        monkeypatch.setattr(threads, "ROOT", root)

    where = dict(tracking_uri=shelf.url, model_name=shelf.name, poll_interval_s=60)
    machine(10**8)
    shelf.publish(seed=1)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        machine(5000)
        shelf.publish(seed=2, model=make_model(2, n_embd=256))
        problem = service.http.post("/admin/reload").json()["problem"]
        assert "GB of memory and 0.00512 GB are available" in problem
        assert service.generate("x").json()["version"] == "1"
        machine(10**8)
        assert service.http.post("/admin/reload").json()["version"] == "2"
    tried("a version larger than memory", problem[:110])


KILLED = """
import os, signal, time
from pathlib import Path
from devopsgpt_serving import app
from devopsgpt_serving.settings import Settings

settings = Settings(
    tracking_uri={url!r}, model_name={name!r}, cache_dir=Path({cache!r}), poll_interval_s=60,
    device="cpu", precision="float32",
)
service = app.build_service(settings)
load = service.follower.load

def killed(version, folder):
    if version.number == "2":
        os.kill(os.getpid(), {number})
    return load(version, folder)

service.follower.load = killed
service.follower.start()
while service.follower.state.reloads == 0 or service.follower.state.problem is None:
    time.sleep(0.02)
time.sleep(0.5)
state = service.follower.state
print(state.served.number, state.problem)
"""


def killed_while_loading(shelf, tmp_path, how=signal.SIGKILL):
    code = KILLED.format(
        url=shelf.url, name=shelf.name, cache=str(tmp_path / "cache"), number=int(how)
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        # a busy machine's registry may take longer than the second that these tests give it
        env=os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_killed_loads_are_enough(shelf, tmp_path, tried):
    """What the kernel does to a process that takes too much, done to a real one."""
    where = dict(tracking_uri=shelf.url, model_name=shelf.name, poll_interval_s=60)
    shelf.publish(seed=1)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
    shelf.publish(seed=2)
    for _ in range(2):
        first = killed_while_loading(shelf, tmp_path)
        assert first.returncode == -signal.SIGKILL
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        until(lambda: "2 loads of it did not end" in (service.ready()["problem"] or ""))
        assert service.generate("x").json()["version"] == "1"
        assert service.http.post("/admin/reload").json()["version"] == "2"  # a person asked
    assert list((tmp_path / "cache").glob(".loading-*")) == []
    tried("two loads killed", "refused at the third start, version 1 served; loaded when asked")


def test_an_alias_that_moves_and_returns_starts_anew(shelf, tmp_path, tried):
    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    shelf.publish(seed=1)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
    shelf.publish(seed=2)
    for _ in range(2):
        ended = killed_while_loading(shelf, tmp_path)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
    with serving(tmp_path, **where) as service:
        until(lambda: "did not end" in (service.ready()["problem"] or ""), say=service.ready)
        shelf.promote("1")
        until(lambda: service.ready()["problem"] is None)
        shelf.promote("2")
        service.wait_for("2")
    tried("an alias that moved away and back", "loads again")


def test_a_load_that_a_stop_ended_is_no_sign(shelf, tmp_path):
    """SIGTERM while a version loads, as a rollout may send it again and again."""
    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    shelf.publish(seed=1)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        follower = service.service.follower
        with follower.marks.loading("9-x"):
            assert len(list((tmp_path / "cache").glob(".loading-*"))) == 1
            follower.stop()
            assert list((tmp_path / "cache").glob(".loading-*")) == []
