"""Loading a model: what is left of it when it is done."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from devopsgpt_model import threads
from devopsgpt_model.checkpoint import save_checkpoint
from devopsgpt_model.config import GPTConfig
from devopsgpt_model.gpt import GPT
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.native.runner import NativeRunner
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.loading import loader
from serving.conftest import until

TASKS = Path("/proc/self/task")
# enough work for a second thread
WIDE = GPTConfig(vocab_size=257, block_size=16, n_layer=1, n_head=4, n_embd=256)


def tasks():
    return {task.name for task in TASKS.iterdir()}


@pytest.mark.skipif(
    not TASKS.is_dir() or torch.get_num_threads() < 2,
    reason="counts the second thread, as Linux does",
)
def test_loading_leaves_no_team_of_threads_behind(tmp_path):
    save_checkpoint(tmp_path / "model", GPT(WIDE).init_weights(1), Tokenizer.plain_bytes(), {})
    load = loader("cpu", "auto", 2)
    loaded, leave, before, failed = threading.Event(), threading.Event(), tasks(), []

    def follow():
        try:
            load(Version("m", "1", "", 0), tmp_path)
        except Exception as error:
            failed.append(error)
        loaded.set()
        leave.wait()

    follower = threading.Thread(target=follow)
    follower.start()
    assert loaded.wait(30)
    try:
        until(
            lambda: len(tasks() - before) == 1,
            say=lambda: f"{len(tasks() - before)} new threads, one is the follower",
        )
        assert not failed
    finally:
        leave.set()
        follower.join()


@pytest.mark.parametrize(("quota", "expected"), [("100000 100000", 1), ("max 100000", 2)])
def test_a_model_computes_with_no_more_threads_than_the_container_may_use(
    quota, expected, tmp_path, monkeypatch
):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "ROOT", tmp_path / "root")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    for path, text in {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota}.items():
        (tmp_path / "root" / path).parent.mkdir(parents=True)
        (tmp_path / "root" / path).write_text(text)
    save_checkpoint(tmp_path / "model", GPT(WIDE).init_weights(1), Tokenizer.plain_bytes(), {})
    torch.set_num_threads(2)
    try:
        loaded = loader("cpu", "float32", 2)(Version("m", "1", "", 0), tmp_path)
        if isinstance(loaded.runner, NativeRunner):
            assert loaded.runner._threads == expected
        # and torch, on a thread that begins later, as the engine's does
        with ThreadPoolExecutor(1) as engine:
            assert engine.submit(torch.get_num_threads).result() == expected
    finally:
        torch.set_num_threads(before)
