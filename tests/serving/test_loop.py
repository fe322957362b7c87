"""What the event loop does not do: wait for arithmetic; and what the service's log does not hold: a
user's text."""

import logging
import threading

import pytest

from devopsgpt_model.tokenizer import Tokenizer
from serving.conftest import until


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/api/generate", {"prompt": "x"}, "encode"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 1}, "encode_special"),
    ],
)
def test_the_service_answers_while_a_prompt_is_encoded(service, monkeypatch, path, body, method):
    encoding, go_on, encode = threading.Event(), threading.Event(), getattr(Tokenizer, method)

    def slow(self, text):
        encoding.set()
        assert go_on.wait(20)
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, method, slow)
    answers = []
    body = body | ({"model": service.name} if path.startswith("/v1") else {})
    asking = threading.Thread(
        target=lambda: answers.append(service.http.post(path, json=body).status_code)
    )
    asking.start()
    try:
        assert encoding.wait(20)
        assert service.http.get("/api/healthz", timeout=10).json() == {"api_healthy": True}
        assert not answers
    finally:
        go_on.set()
        asking.join()
    assert answers == [200]


def test_no_text_of_a_user_is_logged_whatever_becomes_of_it(service, caplog):
    requests = [
        ("/api/generate", {"params": {"prompt": "a secret"}}, 200),
        ("/api/generate", {"json": {"prompt": "", "stop": "a secret"}}, 422),
        ("/api/generate", {"json": {"prompt": "a secret", "top_p": "a secret"}}, 422),
        ("/api/generate", {"json": {"prompt": "a secret " * 100}}, 400),
        (
            "/v1/completions",
            {"json": {"model": service.name, "prompt": ["a secret"], "stream": True}},
            200,
        ),
        ("/v1/completions", {"json": {"model": "a secret", "prompt": "a secret"}}, 404),
        (
            "/v1/completions",
            {"content": b'{"prompt": "a secret', "headers": {"Content-Type": "application/json"}},
            422,
        ),
    ]
    with caplog.at_level(logging.DEBUG):
        for number, (path, asked, status) in enumerate(requests):
            asked = asked | {
                "headers": asked.get("headers", {}) | {"X-Request-ID": f"request-{number}"}
            }
            assert service.http.post(path, **asked).status_code == status, asked
        until(
            lambda: logged_ids(caplog) >= {f"request-{number}" for number in range(len(requests))}
        )
    # httpx is this test's own client; uvicorn's access log is off where the service is started as a
    # command
    ours = [each for each in caplog.records if not each.name.startswith(("http", "uvicorn.access"))]
    assert not [each for each in ours if "secret" in repr(each.__dict__)]


def logged_ids(caplog):
    return {getattr(each, "request_id", "") for each in caplog.records}
