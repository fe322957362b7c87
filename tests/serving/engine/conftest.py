"""The engine of these tests."""

import pytest

from devopsgpt_serving.engine.engine import Engine
from serving.engine.asking import load


@pytest.fixture
def engine():
    engine = Engine(max_running=4, max_queue=8, prefill_chunk=16)
    engine.start()
    engine.install(load())
    yield engine
    engine.stop()
