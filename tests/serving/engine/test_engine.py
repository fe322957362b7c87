"""The engine alone: admission, swaps, failures, stopping."""

import threading
import time

import pytest
import torch

from devopsgpt_serving.engine import engine as engine_module
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.errors import Cancelled, DeadlinePassed, EngineFailure, QueueFull, Stopping
from serving.conftest import until
from serving.engine.asking import Asked, alone, load


def test_who_waits_gets_a_place_when_one_leaves(engine):
    asked = [Asked(engine, "x", seed=i, max_tokens=5 + i) for i in range(12)]
    assert all(one.end()[1] == "length" for one in asked)
    until(lambda: engine.running == 0)
    assert engine.waiting == 0


def test_more_than_running_and_waiting_is_refused_at_once(engine):
    engine.current.runner.delay_s = 0.02
    asked = [Asked(engine, "x") for _ in range(12)]
    with pytest.raises(QueueFull, match="12 of 12 places are taken"):
        Asked(engine, "x")
    assert all(one.end()[1] == "length" for one in asked)
    Asked(engine, "x").end()


def test_a_cancelled_sequence_leaves_its_slot(engine):
    engine.current.runner.delay_s = 0.01
    asked = [Asked(engine, "x", max_tokens=100) for _ in range(6)]
    until(lambda: engine.running == 4)
    for one in asked:
        one.sequence.cancelled = True
    assert all(isinstance(one.end()[1], Cancelled) for one in asked)
    until(lambda: engine.running == engine.waiting == 0)


def test_a_deadline_ends_what_runs_and_what_waits(engine):
    engine.current.runner.delay_s = 0.05
    deadline = time.monotonic() + 0.3
    asked = [Asked(engine, "x", max_tokens=100, deadline=deadline) for _ in range(5)]
    assert all(isinstance(one.end()[1], DeadlinePassed) for one in asked)
    assert time.monotonic() < deadline + 1


def test_a_swap_lets_the_old_model_finish(engine):
    old = engine.current
    old.runner.delay_s = 0.01
    running = [Asked(engine, "hello", seed=seed, max_tokens=50) for seed in range(6)]
    until(lambda: engine.running == 4)
    engine.install(load("2", seed=2))
    newer = Asked(engine, "hello", seed=1)
    assert newer.text == alone("hello", 1, model_seed=2)
    assert [one.text for one in running] == [
        alone("hello", seed, max_tokens=50) for seed in range(6)
    ]
    until(lambda: old not in engine._schedulers)


def test_a_prompt_encoded_for_the_old_model_is_answered_by_it(engine):
    old = engine.current
    engine.install(load("2", seed=2))
    until(lambda: old not in engine._schedulers)
    assert Asked(engine, "hello", scheduler=old, seed=3).text == alone("hello", 3)
    until(lambda: old not in engine._schedulers)


def test_a_lost_device_ends_the_engine(engine, caplog):
    """As CUDA has it: after an illegal access every later call fails."""
    runner = engine.current.runner
    runner.moves.clear()
    waits = [Asked(engine, "x") for _ in range(6)]  # four get a slot, two have none yet
    runner.error = torch.AcceleratorError("CUDA error: an illegal memory access")
    runner.moves.set()
    ends = [one.end()[1] for one in waits]
    assert all(isinstance(error, EngineFailure | Stopping) for error in ends)
    assert any("an illegal memory access" in str(error) for error in ends)
    until(lambda: not engine.alive)
    with pytest.raises(Stopping, match="the engine's thread ended"):
        Asked(engine, "x")


def test_too_little_memory_is_survived(engine, caplog):
    runner = engine.current.runner
    runner.error = torch.AcceleratorError("CUDA error: out of memory")
    runner.error.error_code = 2
    assert isinstance(Asked(engine, "x").end()[1], EngineFailure)
    runner.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert isinstance(Asked(engine, "x").end()[1], EngineFailure)
    runner.error = None
    assert engine.alive
    assert Asked(engine, "x", seed=1).text == alone("x", 1)


def test_a_failing_model_fails_its_sequences_and_not_the_engine(engine, caplog):
    runner = engine.current.runner
    runner.error = RuntimeError("out of memory")
    _, error = Asked(engine, "x").end()
    assert isinstance(error, EngineFailure)
    assert "out of memory" in str(error)
    runner.error = None
    assert engine.alive
    assert Asked(engine, "x", seed=1).text == alone("x", 1)


def test_stopping_gives_up_what_runs():
    engine = Engine(max_running=4, max_queue=8, prefill_chunk=16)
    engine.start()
    loaded = load()
    loaded.runner.delay_s = 0.02
    engine.install(loaded)
    asked = Asked(engine, "x", max_tokens=100)
    until(lambda: engine.running)
    engine.stop()
    assert "stopped" in str(asked.end()[1])
    assert not engine.alive


def test_stopping_does_not_wait_for_a_step_that_hangs(engine, monkeypatch, caplog):
    monkeypatch.setattr(engine_module, "STOP_WAIT_S", 0.1)
    runner = engine.current.runner
    runner.moves.clear()
    try:
        Asked(engine, "x")
        until(lambda: engine.running)
        stopping = threading.Thread(target=engine.stop, daemon=True)
        stopping.start()
        stopping.join(5)
        assert not stopping.is_alive()
        assert engine.alive
        assert "the engine's thread hangs" in caplog.text
    finally:
        runner.moves.set()
    until(lambda: not engine.alive)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_ends_gives_up_what_it_has_and_takes_nothing_in(engine):
    engine.current.runner.error = SystemExit()  # nothing but Exceptions is survived
    assert "the engine's thread ended" in str(Asked(engine, "x").end()[1])
    until(lambda: not engine.alive)
    with pytest.raises(Stopping, match="the engine's thread ended"):
        Asked(engine, "x")


def test_what_is_asked_before_the_start_waits_for_it():
    engine = Engine(max_running=4, max_queue=8, prefill_chunk=16)
    engine.install(load())
    asked = Asked(engine, "x", seed=1)
    engine.start()
    assert asked.text == alone("x", 1)
    engine.stop()
