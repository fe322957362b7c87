"""Fixtures of the launchers' tests."""

import psutil
import pytest

from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.training.job import TrainingJob
from pipeline.training.running import CONFIG, TEXT


@pytest.fixture
def job(tmp_path):
    documents = {"train": [("t", TEXT)], "val": [("v", "a slow answer makes a service wait. " * 8)]}
    write_token_bins(tmp_path / "bins", "toy", Tokenizer.plain_bytes(), documents)
    (tmp_path / "out").mkdir()
    return TrainingJob(config=CONFIG, bins=tmp_path / "bins", out=tmp_path / "out")


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path):
    """A test that fails leaves no trainer."""
    yield
    for process in psutil.process_iter(["cmdline"]):
        if any(str(tmp_path) in word for word in process.info["cmdline"] or []):
            process.kill()
