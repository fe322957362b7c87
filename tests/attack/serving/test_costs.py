"""The most that a request may ask for, what comparing a key tells, an engine that ends."""

import asyncio
import statistics
import time

import httpx
import pytest
from serving.api.test_limits import slow_down
from serving.conftest import serving, until
from starlette.responses import PlainTextResponse

from devopsgpt_serving.api.api_keys import ApiKeyMiddleware
from devopsgpt_serving.settings import GUARDED


def seconds(ask):
    began = time.monotonic()
    answer = ask()
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began, answer


def test_the_largest_stop_strings_slow_an_answer_little(service, tried):
    # repeated letters begin every stop string anew at each position
    stops = ["a" * 255 + chr(66 + number) for number in range(16)]
    asked = dict(max_tokens=120, n=8, temperature=0)
    plain = min(seconds(lambda: service.complete("a", **asked))[0] for _ in range(3))
    slow, answer = min(
        (seconds(lambda: service.complete("a", **asked, stop=stops)) for _ in range(3)),
        key=lambda pair: pair[0],
    )
    assert len(answer.json()["choices"]) == 8
    tried(
        "16 stop strings of 256 characters over 8 answers of 120 tokens",
        f"{slow:.2f} s, without them {plain:.2f} s",
    )
    assert slow < plain * 20 + 1


def test_log_probabilities_of_a_long_echo(service, tried):
    asked = dict(max_tokens=1, echo=True, logprobs=20, n=8)
    took, answer = seconds(lambda: service.complete(["x" * 126] * 8, **asked))
    choices = answer.json()["choices"]
    assert len(choices) == 64
    assert len(choices[0]["logprobs"]["tokens"]) == 127
    tried(
        "64 scored echoes of 126 tokens, 20 likeliest each",
        f"{len(answer.content) / 1e6:.1f} MB in {took:.2f} s",
    )


KEY = "k" * 4000


def compare_s(given):
    """Seconds of a request whose key differs somewhere, at best of many."""

    async def ask():
        app = ApiKeyMiddleware(PlainTextResponse("passed"), [KEY], GUARDED)
        scope = {
            "type": "http",
            "path": "/v1/models",
            "headers": [(b"authorization", f"Bearer {given}".encode())],
        }

        async def send(message):
            if message["type"] == "http.response.start":
                assert message["status"] == 401

        rounds = []
        for _ in range(2000):
            began = time.perf_counter()
            await app(dict(scope), None, send)
            rounds.append(time.perf_counter() - began)
        return statistics.quantiles(rounds, n=20)[0]

    return asyncio.run(ask())


def test_how_long_a_key_is_compared_does_not_tell_where_it_differs(tried):
    early = compare_s("x" + KEY[1:])
    late = compare_s(KEY[:-1] + "x")
    other = compare_s("x")
    tried(
        "a key of 4,000 characters, wrong at its first, at its last, and one of another length",
        ", ".join(f"{value * 1e6:.1f} us" for value in (early, late, other)),
    )
    assert 0.5 < early / late < 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_engine_thread_is_told_and_seen(common_shelf, tmp_path, tried):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, poll_interval_s=60)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        slow_down(service, 0.02)
        body = {"model": service.name, "prompt": "x", "max_tokens": 100, "stream": True}
        with httpx.stream("POST", f"{service.url}/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            service.service.engine.current.runner.error = SystemExit()
            rest = [line for line in lines if line]
        assert '"code":"draining"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        until(lambda: service.http.get("/api/healthz").status_code == 500)
        assert service.http.get("/api/readyz").json()["problem"].startswith("the engine's thread")
        assert service.generate("x").status_code == 503
    tried(
        "the engine's thread killed under a stream",
        "error event and [DONE]; then healthz 500, which restarts it; requests 503",
    )
