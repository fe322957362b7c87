"""What /v1/completions refuses, as OpenAI's client tells it."""

import threading

import openai
import pytest

from serving.api.test_limits import slow_down
from serving.conftest import serving, until


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4' is served here"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="x")


def test_context_overflow_is_openais_error(service, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=service.name, prompt="x" * 500)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [257]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [1, "1"]}, "prompt"),
        ({"prompt": "x", "n": 9}, "n"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "x", "best_of": 3, "n": 2}, "best_of"),
        ({"prompt": "x", "best_of": True}, "best_of"),
        ({"prompt": "x", "suffix": " the end"}, "suffix"),
        ({"prompt": "x", "logit_bias": {"5": 101}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"257": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"-1": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"5": False}}, "logit_bias"),
        ({"prompt": "x", "stop_token_ids": [257]}, "stop_token_ids"),
        ({"prompt": "x", "stop_token_ids": list(range(129))}, "stop_token_ids"),
        ({"prompt": "x", "min_tokens": -1}, "min_tokens"),
        ({"prompt": "x", "min_p": 1.5}, "min_p"),
        ({"prompt": "x", "min_p": True}, "min_p"),
        ({"prompt": "x", "top_k": -2}, "top_k"),
        ({"prompt": "x", "top_p": -0.1}, "top_p"),
        ({"prompt": "x", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"prompt": "x", "ignore_eos": "yes"}, "ignore_eos"),
        ({"prompt": "x", "response_format": {"type": "json_object"}}, "response_format"),
        ({"prompt": "x", "tools": [{"type": "function"}]}, "tools"),
        ({"prompt": "x", "guided_json": {"type": "object"}}, "guided_json"),
        ({"prompt": "x", "frequency_penalty": 2.1}, "frequency_penalty"),
        ({"prompt": "x", "stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_said(service, client, fields, param):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model=service.name, extra_body=fields, prompt="x")
    assert caught.value.param == param


def test_a_field_that_would_have_an_effect_is_named_with_what_is_possible(service, client):
    for fields, message in (
        ({"suffix": "s"}, 'suffix: Only null or "" is supported; leave it out'),
        (
            {"best_of": 3, "n": 2},
            "best_of: Only null or as many as n, 2, is supported; leave it out, got 3",
        ),
    ):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.completions.create(model=service.name, prompt="x", **fields)
        assert (caught.value.body["message"], caught.value.code) == (message, "unsupported_field")


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": None}])
def test_options_of_a_stream_need_a_stream(service, client, fields):
    asked = dict(model=service.name, prompt="x", max_tokens=1) | fields
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(**asked, stream_options={"include_usage": True})
    told = caught.value
    assert (told.param, told.code) == ("stream_options", "invalid_value")
    assert told.body["message"] == "stream_options: Only taken where stream is true; leave it out"
    assert client.completions.create(**asked, stream_options=None).usage.completion_tokens == 1


INVALID = "invalid_request_error"


@pytest.fixture
def strict(common_shelf, tmp_path):
    """A service of narrow limits."""
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, poll_interval_s=60)
    limits = dict(max_batch_size=1, max_queue=1, max_choices=2, max_prompts=1)
    more = dict(max_body_bytes=2000, deadline_s=1, api_keys="the-key")
    with serving(tmp_path, **where, **limits, **more) as service:
        service.wait_for("1")
        yield service


def error_of(service, api_key="the-key", **fields):
    asked = {"model": service.name, "prompt": "x", "max_tokens": 100} | fields
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=api_key, max_retries=0)
    with client, pytest.raises(openai.OpenAIError) as caught:
        list(client.completions.create(**asked))
    return caught.value


def told(error):
    return type(error), error.status_code, error.type, error.code


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"api_key": "wrong"},
            (openai.AuthenticationError, 401, "authentication_error", "invalid_api_key"),
        ),
        ({"prompt": "x" * 3000}, (openai.APIStatusError, 413, INVALID, "body_too_large")),
        (
            {"prompt": " " * 500},
            (openai.BadRequestError, 400, INVALID, "context_length_exceeded"),
        ),
        ({"temperature": 9}, (openai.UnprocessableEntityError, 422, INVALID, "invalid_value")),
        ({"model": "other"}, (openai.NotFoundError, 404, "not_found_error", "model_not_found")),
    ],
    ids=["key", "body", "context", "value", "model"],
)
def test_each_error_of_a_request_has_the_clients_own_class(strict, fields, expected):
    assert told(error_of(strict, **fields)) == expected


def test_each_error_of_the_engine_has_the_clients_own_class(strict):
    slow_down(strict, 0.05)
    server_error = openai.InternalServerError
    late = error_of(strict)
    assert told(late) == (server_error, 504, "timeout_error", "deadline_exceeded")
    in_stream = error_of(strict, stream=True)
    assert type(in_stream) is openai.APIError, "a stream's error comes after its 200"
    assert (in_stream.type, in_stream.code) == ("timeout_error", "deadline_exceeded")
    busy = threading.Thread(target=error_of, args=[strict], kwargs={"n": 2})
    busy.start()
    until(lambda: strict.service.engine.waiting == 1)
    full = error_of(strict)
    assert told(full) == (openai.RateLimitError, 429, "rate_limit_error", "queue_full")
    assert 1 <= int(full.response.headers["retry-after"]) <= 2
    busy.join()
    strict.service.engine.current.runner.error = RuntimeError("out of memory")
    assert told(error_of(strict)) == (server_error, 500, "server_error", "engine_failure")
    strict.service.draining = True
    assert told(error_of(strict)) == (server_error, 503, "service_unavailable", "draining")


def test_the_client_comes_back_after_a_full_queue_by_itself(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, poll_interval_s=60)
    with serving(
        tmp_path, **where, max_batch_size=1, max_queue=0, max_choices=1, max_prompts=1
    ) as service:
        service.wait_for("1")
        slow_down(service, 0.02)
        busy = threading.Thread(target=service.complete, args=("x",), kwargs={"max_tokens": 60})
        busy.start()
        until(lambda: service.service.engine.running == 1)
        with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=2) as client:
            answer = client.completions.create(model=service.name, prompt="x", max_tokens=1)
        assert answer.usage.completion_tokens == 1
        assert service.metric("rejections_total", code="queue_full") >= 1
        busy.join()
