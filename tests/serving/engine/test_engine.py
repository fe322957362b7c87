"""The engine alone: batching, seeds, prefixes, swaps, limits."""

import queue
import threading
import time

import pytest
import torch

from devopsgpt_model.generate import stream_ids
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.compute.runner import EagerRunner
from devopsgpt_serving.engine import engine as engine_module
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampler, Sampling, sample_each
from devopsgpt_serving.engine.scheduler import LocalModel
from devopsgpt_serving.engine.sequence import Failed, Finished, Sequence
from devopsgpt_serving.errors import Cancelled, DeadlinePassed, EngineFailure, QueueFull, Stopping
from devopsgpt_serving.metrics import Metrics
from devopsgpt_serving.version import Version
from serving.conftest import BLOCK_SIZE, make_model, until

TOKENIZER = Tokenizer.plain_bytes()


class CountingRunner:
    """Another runner, what it computed remembered; may be slowed down, made to fail or to hang."""

    def __init__(self, inner, delay_s=0.0):
        self.inner, self.delay_s, self.error = inner, delay_s, None
        self.rows, self.block_size, self.device = inner.rows, inner.block_size, inner.device
        self.copy_prefix, self.reuses_answers = inner.copy_prefix, inner.reuses_answers
        self.prefilled, self.decoded = [], []
        self.moves = threading.Event()
        self.moves.set()

    def prefill(self, row, ids, start, every):
        self.prefilled.append((row, start, len(ids)))
        return self.inner.prefill(row, ids, start, every)

    def decode(self, ids, starts, asked=None):
        if self.error:
            raise self.error
        self.moves.wait()
        time.sleep(self.delay_s)
        self.decoded.append(len(asked))
        return self.inner.decode(ids, starts, asked)


def load(version="1", seed=1, rows=4, **shape):
    runner = CountingRunner(EagerRunner(make_model(seed, **shape), rows))
    return LocalModel(Version("m", version, f"models:/{version}", 0), runner, TOKENIZER)


@pytest.fixture
def engine():
    engine = Engine(max_running=4, max_queue=8, prefill_chunk=16)
    engine.start()
    engine.install(load())
    yield engine
    engine.stop()


class Asked:
    def __init__(self, engine, prompt, scheduler=None, deadline=float("inf"), **sampling):
        self.reports = queue.Queue()
        ids = TOKENIZER.encode(prompt) if isinstance(prompt, str) else prompt
        settings = Sampling(**({"max_tokens": 20, "temperature": 0.8} | sampling))
        self.sequence = Sequence(ids, settings, self.reports.put, deadline)
        engine.submit(scheduler or engine.current, [self.sequence])

    def end(self):
        """(text, reason or error)"""
        text = ""
        while True:
            report = self.reports.get(timeout=20)
            if isinstance(report, Finished):
                return text, report.reason
            if isinstance(report, Failed):
                return text, report.error
            text += report.text

    @property
    def text(self):
        return self.end()[0]


def alone(prompt, seed=1, model_seed=1, **settings):
    ids = TOKENIZER.encode(prompt)
    settings = {"max_tokens": 20, "temperature": 0.8} | settings
    return TOKENIZER.decode(
        stream_ids(make_model(model_seed), ids, eot_id=256, seed=seed, **settings)
    )


def test_the_batch_changes_no_answer(engine):
    prompts = ["a", "a long prompt " * 6, "xyz", "", "b" * 40, "the same", "the same"]
    asked = [
        Asked(engine, prompt or [256], seed=seed, top_k=40, top_p=0.9, max_tokens=30 + seed)
        for seed, prompt in enumerate(prompts)
    ]
    for seed, (prompt, one) in enumerate(zip(prompts, asked, strict=True)):
        if prompt:
            assert one.text == alone(prompt, seed, top_k=40, top_p=0.9, max_tokens=30 + seed), (
                prompt
            )


@pytest.mark.parametrize("temperature", [0, 1e-9, 2])
def test_extreme_temperatures_answer(engine, temperature):
    text, reason = Asked(engine, "hello", temperature=temperature, seed=1).end()
    assert reason == "length"
    if temperature < 1:
        assert text == alone("hello", temperature=0)


def test_the_smallest_top_p_is_greedy(engine):
    assert Asked(engine, "hello", top_p=5e-324).text == alone("hello", temperature=0)


def test_a_seed_is_drawn_where_none_is_given(engine):
    assert Asked(engine, "hello").text != Asked(engine, "hello").text


def test_a_long_prompt_is_computed_in_chunks_while_others_go_on(engine):
    runner = engine.current.runner
    running = Asked(engine, "short", max_tokens=60)
    until(lambda: runner.decoded)
    before = len(runner.decoded)
    long = Asked(engine, "y" * 100, max_tokens=1)
    long.end()
    chunks = [length for row, start, length in runner.prefilled if row == 1]
    assert chunks == [16] * 6 + [4]
    assert len(runner.decoded) - before >= 6
    running.end()


def test_short_prompts_share_a_chunk(engine):
    runner = engine.current.runner
    asked = [
        Sequence(TOKENIZER.encode(p), Sampling(max_tokens=3), queue.Queue().put)
        for p in ("abc", "de", "f" * 12)
    ]
    engine.submit(engine.current, asked)
    until(lambda: all(one.ended for one in asked))
    assert [length for _, _, length in runner.prefilled] == [3, 2, 12]
    assert runner.decoded[0] == 2, "12 tokens do not fit in the 11 that 3 and 2 leave of 16"


def test_every_way_of_drawing_is_the_same_in_a_batch_as_alone():
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    ways = [
        {"temperature": 0.0},
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.5},
        {"presence_penalty": 2.0},
    ]

    def samplers():
        return [
            Sampler(Sampling(max_tokens=9, seed=seed, **way), [1]) for seed, way in enumerate(ways)
        ]

    batch, lone = samplers(), samplers()
    together = [sample_each(logits.roll(step, 1), batch) for step in range(9)]
    alone = [
        [sample_each(logits.roll(step, 1)[i : i + 1], [one])[0] for i, one in enumerate(lone)]
        for step in range(9)
    ]
    assert together == alone
    assert all(one.drawn.total() == 9 for one in batch)


def test_a_prefix_is_not_computed_twice(engine):
    runner = engine.current.runner
    first = "Notes for the night shift. A disk fills up"
    second = "Notes for the night shift. A queue grows"
    Asked(engine, first).end()
    runner.prefilled.clear()
    asked = Asked(engine, second, seed=5)
    assert asked.text == alone(second, 5)
    shared = len("Notes for the night shift. A ")
    assert (asked.sequence.queried_tokens, asked.sequence.cached_tokens) == (len(second), shared)
    assert sum(length for _, _, length in runner.prefilled) == len(second) - shared


def test_a_prefix_is_kept_while_rows_are_free(engine):
    runner = engine.current.runner
    shared = "Notes for the night shift. "
    for prompt in (shared + "A disk fills up", "Never mind the notes.", "Something else"):
        assert Asked(engine, prompt, seed=5).text == alone(prompt, 5)
    runner.prefilled.clear()
    asked = Asked(engine, shared + "the queue grows", seed=5)
    assert asked.text == alone(shared + "the queue grows", 5)
    assert asked.sequence.cached_tokens == len(shared)
    assert sum(length for _, _, length in runner.prefilled) == len("the queue grows")


@pytest.mark.parametrize("reuses", [True, False])
def test_an_answer_begins_a_prompt_only_where_it_has_the_numbers_of_one(engine, reuses):
    engine.current.runner.reuses_answers = reuses
    question = "Who is on call? "
    answer = Asked(engine, question, temperature=0, max_tokens=10).sequence
    until(lambda: answer.ended)
    asked = Asked(engine, [*TOKENIZER.encode(question), *answer.tokens, 65], max_tokens=1).sequence
    until(lambda: asked.ended)
    # the answer's last token was drawn and never computed
    assert asked.cached_tokens == len(question) + (9 if reuses else 0)


def cached(engine, prompt):
    """How much of a prompt was known, once it was asked and rightly answered."""
    asked = Asked(engine, prompt, seed=1)
    assert asked.text == alone(prompt, 1)
    return asked.sequence.cached_tokens


def test_the_prompt_that_was_not_used_for_longest_is_forgotten_first(engine):
    texts = [letter * 40 for letter in "abcde"]
    assert [cached(engine, text) for text in texts[:4]] == [0] * 4
    assert cached(engine, texts[0]) == 39  # so it is the second one's turn
    assert cached(engine, texts[4]) == 0
    assert [cached(engine, texts[which]) for which in (0, 2, 3, 4)] == [39] * 4
    assert cached(engine, texts[1]) == 0


def test_a_prompt_that_begins_a_little_alike_does_not_take_the_row(engine):
    known = "Notes for the night shift."
    assert cached(engine, known) == 0
    assert cached(engine, "Notebooks") == len("Note")
    assert cached(engine, known) == len(known) - 1


def test_rows_that_are_taken_are_not_written_over(engine):
    texts = [letter * 40 for letter in "abcdefgh"]
    for _ in range(2):
        asked = [
            Asked(engine, text, seed=seed, max_tokens=9 + 7 * seed)
            for seed, text in enumerate(texts)
        ]
        for seed, one in enumerate(asked):
            assert one.text == alone(texts[seed], seed, max_tokens=9 + 7 * seed)


def test_metrics_tell_how_much_of_the_prompts_was_found():
    metrics = Metrics()
    engine = Engine(
        max_running=2, max_queue=0, prefill_chunk=16, on_token=metrics.token, on_end=metrics.ended
    )
    engine.start()
    engine.install(load(rows=2))
    for last in "xy":
        Asked(engine, "the pre-prompt " + last).end()
    engine.stop()
    told = metrics.exposition().decode()
    assert "devopsgpt:prefix_cache_queries_total 32.0" in told
    assert "devopsgpt:prefix_cache_hits_total 15.0" in told


def test_a_prefix_is_taken_from_a_row_that_is_running(engine):
    running = Asked(engine, "the very same prompt", max_tokens=100, seed=1)
    until(lambda: running.sequence.tokens)
    asked = Asked(engine, "the very same prompt", seed=2)
    assert asked.text == alone("the very same prompt", 2)
    assert asked.sequence.cached_tokens == len("the very same prompt") - 1
    assert running.text == alone("the very same prompt", 1, max_tokens=100)


def test_a_full_context_does_not_spoil_its_row_for_others(engine):
    full = "z" * (BLOCK_SIZE - 1)
    asked = [Asked(engine, full, seed=1, max_tokens=5), Asked(engine, "abc", seed=2, max_tokens=60)]
    assert [one.end()[1] for one in asked] == ["length", "length"]
    again = Asked(engine, full, seed=1, max_tokens=5)
    assert again.text == alone(full, 1, max_tokens=5)


def test_end_of_text_is_a_stop(engine):
    engine.install(load("2", endless=False))
    assert Asked(engine, "x", temperature=0).end() == ("", "stop")


def test_penalties_take_what_they_say():
    penalties = dict(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=0.5)
    sampler = Sampler(Sampling(max_tokens=9, **penalties), [1])
    sampler.drawn[2] = 2
    # prompt and answer: 1 / 2; the answer also 1 + 2 * 0.5
    assert sampler.penalized(torch.ones(4)).tolist() == [1, 0.5, -1.5, 1]
    # a negative logit goes down, too: -1 * 2
    assert sampler.penalized(-torch.ones(4)).tolist() == [-1, -2, -4, -1]


def test_penalties_keep_a_greedy_answer_from_repeating(engine):
    plain = Asked(engine, "aaaa", temperature=0, max_tokens=40).sequence
    until(lambda: plain.ended)
    for penalty in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 5.0},
    ):
        sequence = Asked(engine, "aaaa", temperature=0, max_tokens=40, **penalty).sequence
        until(lambda s=sequence: s.ended)
        assert len(set(sequence.tokens)) > len(set(plain.tokens)), penalty


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


def test_a_cancelled_sequence_leaves_its_row(engine):
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
