"""Fixtures of the training's tests."""

import pytest

from devopsgpt_model.token_bins import write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.training.job import TrainingJob
from model.training.running import CONFIG, TEXT


@pytest.fixture
def job(tmp_path):
    documents = {"train": [("t", TEXT)], "val": [("v", "a slow answer makes a service wait. " * 8)]}
    write_token_bins(tmp_path / "bins", "toy", Tokenizer.plain_bytes(), documents)
    return TrainingJob(config=CONFIG, bins=tmp_path / "bins", out=tmp_path / "out")
