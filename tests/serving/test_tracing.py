"""Traces at a real OTLP/HTTP collector; none, and nothing imported, where none is named."""

import socket
import subprocess
import sys
import time

import pytest

from devopsgpt_serving import tracing
from serving.api.test_limits import slow_down
from serving.collector import collecting
from serving.conftest import serving, until

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def collector(monkeypatch):
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield collector


@pytest.fixture
def traced(collector, shelf, tmp_path):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        yield service


def spans_below(collector, request_id, count):
    """The request's span and those below it, once they have arrived."""
    mine = {"devopsgpt.request_id": request_id}
    until(
        lambda: sum(mine.items() <= span.facts.items() for span in collector.spans) == count,
        seconds=5,
    )
    found = [span for span in collector.spans if mine.items() <= span.facts.items()]
    (top,) = [span for span in found if span.name.startswith("POST")]
    return top, [span for span in found if span is not top]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_its_stages_below(traced, collector, stream):
    caller = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "X-Request-ID": f"mine-{stream}"}
    body = {"model": traced.name, "prompt": "a secret", "max_tokens": 5, "n": 2, "stream": stream}
    before = time.time_ns()
    assert traced.http.post("/v1/completions", json=body, headers=caller).status_code == 200
    top, below = spans_below(collector, f"mine-{stream}", 7)
    assert (top.name, top.service) == ("POST /v1/completions", "devopsgpt-serving")
    assert (top.trace.hex(), top.parent.hex()) == ("a" * 32, "b" * 16)
    assert top.facts["http.response.status_code"] == 200
    assert {span.facts["devopsgpt.model_version"] for span in (top, *below)} == {"1"}
    told = {name: value for name, value in top.facts.items() if name.startswith("gen_ai.")}
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == traced.name
    assert told["gen_ai.response.model"] == f"{traced.name}-1"
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.choice.count"]) == (5, 2)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (8, 10)
    assert told["gen_ai.response.finish_reasons"] == ["length", "length"]
    assert (
        sorted(span.name for span in below) == ["decode"] * 2 + ["prefill"] * 2 + ["queue_wait"] * 2
    )
    assert {span.parent for span in below} == {top.id}
    assert all(
        before <= top.began_ns <= span.began_ns <= span.ended_ns <= time.time_ns() for span in below
    )
    decode = [span for span in below if span.name == "decode"]
    assert all(
        (one.facts["completion_tokens"], one.facts["finish_reason"]) == (5, "length")
        for one in decode
    )
    assert all(one.facts["prompt_tokens"] == 8 for one in below if one.name == "prefill")
    slow_down(traced, 0)
    traced.service.engine.current.runner.error = RuntimeError("out of memory")
    broken = {"devopsgpt.request_id": f"broken-{stream}", "error.type": "engine_failure"}
    answer = traced.http.post(
        "/v1/completions", json=body, headers={"X-Request-ID": f"broken-{stream}"}
    )
    assert answer.status_code == (200 if stream else 500)
    until(lambda: collector.named("POST /v1/completions", **broken))
    assert [span.failed for span in collector.named("POST /v1/completions")] == [False, True]


def test_no_text_of_a_user_reaches_the_collector(traced, collector):
    traced.http.post("/api/generate", params={"prompt": "a secret"}, headers={"X-Request-ID": "a"})
    traced.http.post(
        "/api/generate", json={"prompt": "", "stop": "a secret"}, headers={"X-Request-ID": "b"}
    )
    traced.http.get("/v1/models/secret", headers={"X-Request-ID": "c"})
    until(
        lambda: (
            len(
                {"a", "b", "c"}
                & {span.facts.get("devopsgpt.request_id") for span in collector.spans}
            )
            == 3
        )
    )
    assert collector.named(
        "POST /api/generate", **{"error.type": "empty_prompt", "http.response.status_code": 422}
    )
    assert collector.named("GET /v1/models/{model}", **{"error.type": "model_not_found"})
    assert not any(b"secret" in body for body in collector.bodies)


def test_following_the_registry_is_traced(traced, collector, shelf):
    until(lambda: collector.named("model.swap"))
    (swap,), (load,), (fetch,) = (
        collector.named(name) for name in ("model.swap", "model.load", "registry.fetch")
    )
    assert swap.facts == load.facts == fetch.facts == {"devopsgpt.model_version": "1"}
    until(lambda: swap.parent in {span.id for span in collector.named("registry.poll")})
    (poll,) = [span for span in collector.named("registry.poll") if span.id == swap.parent]
    assert load.parent == fetch.parent == poll.id
    assert poll.began_ns <= fetch.began_ns <= load.began_ns <= swap.began_ns <= poll.ended_ns


def test_probes_are_not_traced(traced, collector):
    for path in ("/api/healthz", "/api/readyz", "/metrics", "/v1/models"):
        traced.http.get(path)
    until(lambda: collector.named("GET /v1/models"))
    assert not any(span.name.endswith(("z", "metrics")) for span in collector.spans)


def test_what_is_queued_at_the_end_is_sent(collector, monkeypatch, common_shelf, tmp_path):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    with serving(tmp_path, tracking_uri=common_shelf.url, model_name=common_shelf.name) as service:
        service.wait_for("1")
        service.generate("x", max_token_len=1)
        assert collector.spans == []
    assert collector.named("POST /api/generate")


@pytest.fixture
def hanging_collector():
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("dead", ["refusing", "hanging"])
def test_a_dead_collector_costs_nobody_time(
    common_shelf, tmp_path, monkeypatch, hanging_collector, dead
):
    monkeypatch.setenv(ENDPOINT, hanging_collector if dead == "hanging" else "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    with serving(tmp_path, tracking_uri=common_shelf.url, model_name=common_shelf.name) as service:
        service.wait_for("1")
        slowest = 0.0
        for _ in range(40):  # 160 spans, of which 8 find room
            began = time.monotonic()
            assert service.generate("x", max_token_len=1).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 3
        leaving = time.monotonic()
    assert time.monotonic() - leaving < tracing.CLOSE_S + 3


def imported_by(code):
    """What of OpenTelemetry that can send; its API, which only declares, comes with FastAPI."""
    sending = ("opentelemetry.sdk", "opentelemetry.exporter")
    program = (
        f"{code}\nimport sys\nprint([name for name in sys.modules if name.startswith({sending})])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()[-1]


def test_nothing_is_imported_where_no_collector_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv(ENDPOINT, raising=False)
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    monkeypatch.setenv("DEVOPSGPT_HOME", str(tmp_path))
    assert imported_by("from devopsgpt_serving.app import create_app; create_app()") == "[]"
    opening = "from devopsgpt_serving.tracing import open_tracing; open_tracing()"
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    assert "exporter" in imported_by(opening)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert imported_by(opening) == "[]"


def test_a_missing_package_is_told_and_the_service_starts(monkeypatch, caplog):
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert tracing.open_tracing().begin({}) is None
    assert "pip install 'devopsgpt[tracing]'" in caplog.text
