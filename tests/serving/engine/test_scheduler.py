"""What is computed next: batching, chunks of prompts, prefixes that are computed once."""

import queue

import pytest

from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.metrics import Metrics
from serving.conftest import BLOCK_SIZE, until
from serving.engine.asking import TOKENIZER, Asked, alone, load


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


def test_a_prefix_is_kept_while_slots_are_free(engine):
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


def test_a_prompt_that_begins_a_little_alike_does_not_take_the_slot(engine):
    known = "Notes for the night shift."
    assert cached(engine, known) == 0
    assert cached(engine, "Notebooks") == len("Note")
    assert cached(engine, known) == len(known) - 1


def test_slots_that_are_taken_are_not_written_over(engine):
    texts = [letter * 40 for letter in "abcdefgh"]
    for _ in range(2):
        asked = [
            Asked(engine, text, seed=seed, max_tokens=9 + 7 * seed)
            for seed, text in enumerate(texts)
        ]
        for seed, one in enumerate(asked):
            assert one.text == alone(texts[seed], seed, max_tokens=9 + 7 * seed)


def test_metrics_tell_how_much_of_the_prompts_was_found():
    metrics = Metrics("gpt")
    engine = Engine(
        max_running=2, max_queue=0, prefill_chunk=16, on_token=metrics.token, on_end=metrics.ended
    )
    engine.start()
    engine.install(load(rows=2))
    for last in "xy":
        Asked(engine, "the pre-prompt " + last).end()
    engine.stop()
    told = metrics.exposition().decode()
    assert 'devopsgpt:prefix_cache_queries_total{model_name="gpt"} 32.0' in told
    assert 'devopsgpt:prefix_cache_hits_total{model_name="gpt"} 15.0' in told


def test_a_prefix_is_taken_from_a_slot_that_is_running(engine):
    running = Asked(engine, "the very same prompt", max_tokens=100, seed=1)
    until(lambda: running.sequence.tokens)
    asked = Asked(engine, "the very same prompt", seed=2)
    assert asked.text == alone("the very same prompt", 2)
    assert asked.sequence.cached_tokens == len("the very same prompt") - 1
    assert running.text == alone("the very same prompt", 1, max_tokens=100)


def test_a_full_context_does_not_spoil_its_slot_for_others(engine):
    full = "z" * (BLOCK_SIZE - 1)
    asked = [Asked(engine, full, seed=1, max_tokens=5), Asked(engine, "abc", seed=2, max_tokens=60)]
    assert [one.end()[1] for one in asked] == ["length", "length"]
    again = Asked(engine, full, seed=1, max_tokens=5)
    assert again.text == alone(full, 1, max_tokens=5)


def test_end_of_text_is_a_stop(engine):
    engine.install(load("2", endless=False))
    assert Asked(engine, "x", temperature=0).end() == ("", "stop")
