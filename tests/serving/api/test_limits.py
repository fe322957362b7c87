"""Sizes, queues, deadlines, callers who hang up."""

import logging
import re
import threading
import time

import httpx
import pytest
import torch

from devopsgpt_serving.api import pending_answers
from devopsgpt_serving.api.openai import completion_sse
from devopsgpt_serving.engine.backlog import Backlog
from devopsgpt_serving.engine.sampling import Sampling
from devopsgpt_serving.engine.sequence import Sequence
from serving.conftest import serving, until
from serving.engine.asking import CountingRunner


@pytest.fixture
def small_service(common_shelf, tmp_path):
    """Two places and two to wait, each step slowed down."""
    with serving(
        tmp_path,
        tracking_uri=common_shelf.url,
        model_name=common_shelf.name,
        max_batch_size=2,
        max_queue=2,
        max_choices=4,
        max_prompts=1,
        max_body_bytes=2000,
        poll_interval_s=60,
    ) as service:
        service.wait_for("1")
        yield service


def slow_down(service, delay_s):
    scheduler = service.service.engine.current
    scheduler.runner = CountingRunner(scheduler.loaded.runner, delay_s)


def idle(service):
    engine = service.service.engine
    return engine.running == 0 and engine.waiting == 0


def test_a_full_queue_is_429_at_once(small_service):
    slow_down(small_service, 0.02)
    thread = threading.Thread(
        target=small_service.generate, args=("x",), kwargs={"iterations": 4, "max_token_len": 30}
    )
    thread.start()
    until(lambda: small_service.service.engine.running == 2)
    answer = httpx.post(f"{small_service.url}/api/generate", json={"prompt": "x"}, timeout=1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert small_service.metric("num_requests_running") == 2
    assert small_service.metric("num_requests_waiting") == 2
    thread.join()
    assert small_service.generate("x", max_token_len=1).status_code == 200


def refused_after(service, answers, tokens, delay_s):
    """(Retry-After, how long the queue then really took) while that many answers are under way."""
    slow_down(service, delay_s)
    asked = {"iterations": answers, "max_token_len": tokens, "seed": 1}
    thread = threading.Thread(target=service.generate, args=("x",), kwargs=asked)
    thread.start()
    engine, backlog = service.service.engine, service.service.backlog
    until(lambda: engine.running == 2 and backlog.owed < answers * tokens * 0.9)
    began = time.monotonic()
    answer = httpx.post(f"{service.url}/api/generate", json={"prompt": "x"}, timeout=1)
    assert answer.status_code == 429
    thread.join()
    return int(answer.headers["retry-after"]), time.monotonic() - began


def test_retry_after_is_when_the_queue_will_have_been_worked_off(small_service):
    told, took = refused_after(small_service, answers=4, tokens=50, delay_s=0.04)
    assert took > 2
    assert took - 1 < told < took + 1.5
    assert small_service.service.backlog.owed == 0
    # a second of work: a shorter queue may be empty before a busy machine asks
    told, took = refused_after(small_service, answers=4, tokens=24, delay_s=0.02)
    assert told <= 2


def test_nobody_is_told_to_wait_past_the_deadline():
    backlog = Backlog(longest_s=7)
    assert backlog.retry_after_s() == 1, "nothing owed, nothing measured"
    sequence = Sequence([1], Sampling(max_tokens=10**6), print)
    backlog.add(sequence, room=10**5)
    assert backlog.owed == 10**5
    time.sleep(0.01)
    backlog.token()
    assert backlog.retry_after_s() == 7
    backlog.drop(sequence)
    assert backlog.retry_after_s() == 1


def test_a_body_that_is_too_large_is_413(small_service):
    answer = small_service.generate("x" * 3000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    parts = (b'{"prompt": "', *[b"x" * 500] * 6, b'"}')
    headers = {"Content-Type": "application/json"}
    answer = small_service.http.post("/api/generate", content=iter(parts), headers=headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_hangs_up_frees_the_place(small_service, stream):
    slow_down(small_service, 0.05)
    body = {"model": small_service.name, "prompt": "x", "max_tokens": 100, "stream": stream, "n": 3}
    with httpx.Client(base_url=small_service.url) as client:
        if stream:
            with client.stream("POST", "/v1/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/completions", json=body, timeout=0.3)
    until(lambda: idle(small_service), seconds=2)
    assert small_service.metric("request_success_total", finished_reason="cancelled") == 3


def test_a_caller_who_hangs_up_while_waiting_is_dropped(small_service):
    slow_down(small_service, 0.05)
    body = {"model": small_service.name, "prompt": "x", "max_tokens": 60, "n": 2}
    thread = threading.Thread(target=lambda: small_service.complete(**body))
    thread.start()
    until(lambda: small_service.service.engine.running == 2)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{small_service.url}/v1/completions", json=body, timeout=0.3)
    until(lambda: small_service.service.engine.waiting == 0, seconds=1)
    thread.join()


def test_a_deadline_is_504(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, deadline_s=0.3, poll_interval_s=60) as service:
        service.wait_for("1")
        slow_down(service, 0.05)
        answer = service.generate("x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        text = service.complete("x", max_tokens=100, stream=True).text
        assert '"code":"deadline_exceeded"' in text
        assert text.endswith("data: [DONE]\n\n")
        until(lambda: service.metric("failed_streams_total", code="deadline_exceeded") == 1)


def test_a_deadline_holds_though_the_engine_hangs(common_shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(pending_answers, "DEADLINE_GRACE_S", 0.5)
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, deadline_s=0.3, poll_interval_s=60) as service:
        service.wait_for("1")
        slow_down(service, 0)
        moves = service.service.engine.current.runner.moves
        moves.clear()
        try:
            began = time.monotonic()
            answer = httpx.post(f"{service.url}/api/generate", json={"prompt": "x"}, timeout=5)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                504,
                "deadline_exceeded",
            )
            assert 0.8 <= time.monotonic() - began < 3
            text = service.complete("x", max_tokens=100, stream=True).text
            assert '"code":"deadline_exceeded"' in text
            assert text.endswith("data: [DONE]\n\n")
        finally:
            moves.set()
        until(lambda: idle(service))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_503_at_once(small_service):
    slow_down(small_service, 0)
    small_service.service.engine.current.runner.error = SystemExit()
    for _ in range(2):  # what it ends over, and what comes later
        answer = httpx.post(f"{small_service.url}/api/generate", json={"prompt": "x"}, timeout=2)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert "the engine's thread ended" in answer.json()["error"]["message"]


def test_a_lost_gpu_makes_the_service_unhealthy(small_service):
    """CUDA computes nothing more in that process: 500 for ever would be no answer."""
    slow_down(small_service, 0)
    assert small_service.http.get("/api/healthz").status_code == 200
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    small_service.service.engine.current.runner.error = lost
    answer = small_service.http.post("/api/generate", json={"prompt": "x"})
    assert answer.status_code == 500  # what it ends over
    until(lambda: small_service.http.get("/api/healthz").status_code == 500)
    ready = small_service.http.get("/api/readyz")
    assert ready.json()["problem"] == "the engine's thread ended; restart the service"
    answer = small_service.http.post("/api/generate", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")


def test_a_stream_that_fails_counts_as_an_error_under_its_id(small_service, caplog):
    caplog.set_level(logging.INFO)

    def ask(request_id):
        body = {"model": small_service.name, "prompt": "x", "max_tokens": 9, "stream": True}
        answer = small_service.http.post(
            "/v1/completions", json=body, headers={"X-Request-ID": request_id}
        )
        assert answer.status_code == 200
        return answer.text

    def logged(request_id):
        return {
            record.message: record
            for record in list(caplog.records)
            if request_id
            in (getattr(record, "request_id", ""), *getattr(record, "request_ids", ()))
        }

    slow_down(small_service, 0)
    assert "error" not in ask("good")
    small_service.service.engine.current.runner.error = RuntimeError("out of memory")
    assert '"code":"engine_failure"' in ask("bad")
    until(lambda: {"request"} <= logged("bad").keys() & logged("good").keys())
    bad, good = logged("bad"), logged("good")
    assert (bad["a stream failed"].levelname, bad["a stream failed"].code) == (
        "ERROR",
        "engine_failure",
    )
    assert "out of memory" in bad["a model failed"].exc_text
    assert (bad["request"].status, bad["request"].error_code) == (200, "engine_failure")
    assert set(good) == {"request"}
    assert not hasattr(good["request"], "error_code")
    metrics = small_service.http.get("/metrics").text
    assert len(re.findall(r"^devopsgpt:failed_streams_total", metrics, re.MULTILINE)) == 1
    assert small_service.metric("failed_streams_total", code="engine_failure") == 1
    assert small_service.metric("rejections_total", code="engine_failure") == 1


def test_a_stream_that_breaks_off_counts_as_an_error(small_service, monkeypatch):
    def broken(*_):
        raise ArithmeticError("a mistake of ours")

    monkeypatch.setattr(completion_sse, "choice_of", broken)
    with pytest.raises(httpx.RemoteProtocolError):
        small_service.complete("x", max_tokens=3, stream=True)
    until(lambda: small_service.metric("failed_streams_total", code="internal_error") == 1)


def test_a_text_before_every_prompt_is_computed_once(common_shelf, tmp_path):
    where = dict(
        tracking_uri=common_shelf.url,
        model_name=common_shelf.name,
        pre_prompt="Notes of the night shift.",
    )
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        answers = [
            service.generate(prompt, max_token_len=1).json() for prompt in ("A disk", "It rings")
        ]
        before = len("Notes of the night shift. ")
        assert [answer["usage"]["prompt_tokens"] for answer in answers] == [before + 6, before + 8]
        assert service.metric("prefix_cache_hits_total") == before
        unasked = service.generate("A disk", pre_prompt="", max_token_len=1).json()
        assert unasked["usage"]["prompt_tokens"] == 6
