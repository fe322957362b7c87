"""OpenAI's contract, with OpenAI's own client."""

import asyncio
import math
import threading

import openai
import pytest
import torch

from devopsgpt_model.tokenizer import Tokenizer
from serving.api.test_limits import slow_down
from serving.conftest import BLOCK_SIZE, make_model, serving, until


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_models_lists_what_is_served(service, client):
    (model,) = client.models.list().data
    assert model.id == service.name
    assert client.models.retrieve(service.name).model_dump()["version"] == "1"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4' is served here"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="x")


def test_a_completion(service, client):
    answer = client.completions.create(model=service.name, prompt="hello", max_tokens=10, seed=1)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 5,
        "completion_tokens": 10,
        "total_tokens": 15,
    }
    assert answer.system_fingerprint == f"{service.name}-1"


def test_a_stream_adds_up_to_the_whole(service, client):
    asked = dict(model=service.name, prompt="hello", max_tokens=30, seed=9)
    whole = client.completions.create(**asked)
    chunks = list(
        client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_options_tells_no_usage(service, client):
    chunks = list(
        client.completions.create(model=service.name, prompt="hello", max_tokens=3, stream=True)
    )
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "usage" not in chunks[0].model_fields_set


@pytest.mark.parametrize("prompt", ["ab", [97, 98], [97.0, 98.0], ["ab"], [[97, 98]]])
def test_each_form_of_a_prompt_means_the_same(service, client, prompt):
    answer = client.completions.create(
        model=service.name, prompt=prompt, temperature=0, max_tokens=8, echo=True
    )
    assert answer.choices[0].text.startswith("ab")
    assert answer.usage.prompt_tokens == 2


def test_several_prompts_and_answers_come_in_order(service, client):
    answer = client.completions.create(
        model=service.name, prompt=["a", "b"], n=2, max_tokens=5, seed=3, echo=True
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    assert answer.usage.prompt_tokens == 2
    assert answer.choices[0].text != answer.choices[1].text


def test_no_prompt_begins_a_document(service, client):
    answer = client.completions.create(model=service.name, prompt=None, max_tokens=4)
    assert answer.usage.prompt_tokens == 1


def test_logprobs_are_the_models_own(service, client):
    answer = client.completions.create(
        model=service.name, prompt="ab", max_tokens=6, logprobs=3, echo=True, seed=3
    )
    told = answer.choices[0].logprobs
    assert len(told.tokens) == 8
    assert told.token_logprobs[0] is None
    assert told.text_offset[:3] == [0, 1, 2]
    ids = Tokenizer.plain_bytes().encode("ab")
    expected = torch.log_softmax(make_model(1)(torch.tensor([ids]))[0][0, 0].detach(), 0)[98]
    assert told.token_logprobs[1] == pytest.approx(float(expected), abs=1e-4)
    drawn = list(zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True))[1:]
    assert all(top[token] == logprob for token, logprob, top in drawn)
    assert {len(top) for *_, top in drawn} == {4}, "none of these is among the three likeliest"
    assert all(sorted(top.values(), reverse=True) == list(top.values()) for *_, top in drawn)
    assert all(-math.inf < value <= 0 for value in told.token_logprobs[1:])


def test_the_likeliest_token_is_told_once(service, client):
    asked = dict(model=service.name, prompt="ab", max_tokens=6)
    told = client.completions.create(**asked, temperature=0, logprobs=3).choices[0].logprobs
    assert [(len(top), max(top, key=top.get)) for top in told.top_logprobs] == [
        (3, token) for token in told.tokens
    ]
    told = client.completions.create(**asked, logprobs=0).choices[0].logprobs
    pairs = zip(told.tokens, told.token_logprobs, strict=True)
    assert told.top_logprobs == [{token: logprob} for token, logprob in pairs]


def test_streamed_logprobs_are_the_same(service, client):
    asked = dict(model=service.name, prompt="ab", max_tokens=12, logprobs=2, echo=True, seed=2)
    whole = client.completions.create(**asked).choices[0].logprobs
    pieces = [
        chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)
    ]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [each for piece in pieces for each in getattr(piece, name)] == getattr(
            whole, name
        ), name


def test_a_text_can_be_scored_up_to_the_whole_context(service, client):
    prompt = "x" * BLOCK_SIZE
    answer = client.completions.create(
        model=service.name, prompt=prompt, max_tokens=0, echo=True, logprobs=0
    )
    assert answer.choices[0].text == prompt
    assert len(answer.choices[0].logprobs.token_logprobs) == BLOCK_SIZE
    ids = torch.tensor([Tokenizer.plain_bytes().encode(prompt)])
    logits, _ = make_model(1)(ids)
    expected = torch.log_softmax(logits[0, -2].detach(), 0)[ids[0, -1]]
    assert answer.choices[0].logprobs.token_logprobs[-1] == pytest.approx(float(expected), abs=1e-4)


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
        ({"prompt": ["x"] * 9}, "prompt"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "x", "best_of": 3, "n": 2}, "best_of"),
        ({"prompt": "x", "best_of": True}, "best_of"),
        ({"prompt": "x", "suffix": " the end"}, "suffix"),
        ({"prompt": "x", "logit_bias": {"5": 1, "6": 0}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"5": False}}, "logit_bias"),
        ({"prompt": "x", "frequency_penalty": 2.1}, "frequency_penalty"),
        ({"prompt": "x", "stream": True, "stream_options": {"other": 1}}, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_said(service, client, fields, param):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model=service.name, extra_body=fields, prompt="x")
    assert caught.value.param == param


def test_a_field_that_would_have_an_effect_is_named_with_what_is_possible(service, client):
    for fields, message in (
        ({"suffix": "s"}, 'suffix: Only null or "" is supported; leave it out'),
        ({"logit_bias": {"5": 1}}, "logit_bias: Only null, {} or zeros is supported; leave it out"),
        (
            {"best_of": 3, "n": 2},
            "best_of: Only null or as many as n, 2, is supported; leave it out, got 3",
        ),
    ):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.completions.create(model=service.name, prompt="x", **fields)
        assert (caught.value.body["message"], caught.value.code) == (message, "unknown_field")


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": None}])
def test_options_of_a_stream_need_a_stream(service, client, fields):
    asked = dict(model=service.name, prompt="x", max_tokens=1) | fields
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(**asked, stream_options={"include_usage": True})
    told = caught.value
    assert (told.param, told.code) == ("stream_options", "invalid_value")
    assert told.body["message"] == "stream_options: Only taken where stream is true; leave it out"
    assert client.completions.create(**asked, stream_options=None).usage.completion_tokens == 1


def test_a_field_without_effect_is_taken(service, client):
    asked = dict(model=service.name, prompt="hello", max_tokens=6, seed=1)
    whole = [choice.text for choice in client.completions.create(**asked, n=2).choices]
    for fields in (
        {
            "suffix": None,
            "logit_bias": None,
            "best_of": None,
            "n": None,
            "user": None,
            "stop": None,
            "echo": None,
        },
        {"suffix": "", "logit_bias": {}, "best_of": 1},
        {"logit_bias": {"5": 0}, "best_of": 1, "n": 1},
        {"best_of": 2, "n": 2},
    ):
        texts = [choice.text for choice in client.completions.create(**asked, **fields).choices]
        assert texts == whole[: fields.get("n") or 1]


def test_no_token_asked_for_is_no_text(service, client):
    (choice,) = client.completions.create(model=service.name, prompt="x", max_tokens=0).choices
    assert (choice.text, choice.finish_reason) == ("", "length")


def test_stop_strings_end_the_text_before_them(service, client):
    asked = dict(model=service.name, prompt="q", max_tokens=60, seed=4)
    text = client.completions.create(**asked).choices[0].text
    stop = text[20:22]
    answer = client.completions.create(**asked, stop=stop)
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    chunks = client.completions.create(**asked, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text[: text.index(stop)]


def test_a_list_of_stop_strings_ends_at_whichever_comes_first(service, client):
    asked = dict(model=service.name, prompt="q", max_tokens=60, seed=4)
    text = client.completions.create(**asked).choices[0].text
    first, later = text[10:12], text[30:33]
    for stream in (False, True):
        answer = client.completions.create(
            **asked, stop=[later, first, "never there"], stream=stream
        )
        told = (
            "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
        )
        assert told == text[: text.index(first)]


def test_streamed_answers_are_told_apart_by_index(service, client):
    asked = dict(model=service.name, prompt=["a", "b"], n=2, max_tokens=12, seed=5, echo=True)
    whole = client.completions.create(**asked)
    texts, reasons = {}, {}
    for chunk in client.completions.create(**asked, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert [texts[index] for index in range(4)] == [choice.text for choice in whole.choices]
    assert set(reasons.values()) == {"length"}


def test_the_extensions_and_penalties_take_effect(service, client):
    asked = dict(model=service.name, prompt="aaaa", max_tokens=40, seed=1)
    plain = client.completions.create(**asked).choices[0].text
    for more in (
        {"temperature": 0},
        {"top_p": 0.1},
        {"presence_penalty": 2},
        {"frequency_penalty": -2},
        {"extra_body": {"top_k": 1}},
        {"extra_body": {"repetition_penalty": 5}},
    ):
        assert client.completions.create(**asked, **more).choices[0].text != plain, more
    greedy = client.completions.create(**asked, temperature=0).choices[0].text
    assert client.completions.create(**asked, extra_body={"top_k": 1}).choices[0].text == greedy


def test_the_asynchronous_client_streams_too(service):
    async def ask():
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key="unused", max_retries=0
        ) as client:
            asked = dict(model=service.name, prompt="hello", max_tokens=12, seed=9)
            whole = await client.completions.create(**asked)
            stream = await client.completions.create(**asked, stream=True)
            return whole.choices[0].text, "".join([chunk.choices[0].text async for chunk in stream])

    whole, streamed = asyncio.run(ask())
    assert streamed == whole


def test_the_raw_answer_tells_request_id_and_version(service, client):
    raw = client.completions.with_raw_response.create(
        model=service.name, prompt="x", max_tokens=1, extra_headers={"X-Request-ID": "mine"}
    )
    assert (raw.headers["x-request-id"], raw.headers["x-model-version"]) == ("mine", "1")
    assert raw.parse().id == "cmpl-mine"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x", extra_headers={"X-Request-ID": "mine"})
    assert caught.value.request_id == "mine"


def test_each_error_has_the_clients_own_class(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, poll_interval_s=60)
    limits = dict(
        max_batch_size=1,
        max_queue=1,
        max_choices=2,
        max_prompts=1,
        max_body_bytes=2000,
        deadline_s=1,
        api_keys="the-key",
    )
    with serving(tmp_path, **where, **limits) as service:
        service.wait_for("1")

        def error_of(api_key="the-key", **fields):
            asked = {"model": service.name, "prompt": "x", "max_tokens": 100} | fields
            client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=api_key, max_retries=0)
            with client, pytest.raises(openai.OpenAIError) as caught:
                list(client.completions.create(**asked))
            return caught.value

        def told(error):
            return type(error), error.status_code, error.type, error.code

        unknown = error_of(api_key="wrong")
        assert told(unknown) == (
            openai.AuthenticationError,
            401,
            "authentication_error",
            "invalid_api_key",
        )
        invalid = "invalid_request_error"
        too_large = error_of(prompt="x" * 3000)
        assert told(too_large) == (openai.APIStatusError, 413, invalid, "body_too_large")
        too_long = error_of(prompt=" " * 500)
        assert told(too_long) == (openai.BadRequestError, 400, invalid, "context_length_exceeded")
        assert told(error_of(temperature=9)) == (
            openai.UnprocessableEntityError,
            422,
            invalid,
            "invalid_value",
        )
        assert told(error_of(model="other")) == (
            openai.NotFoundError,
            404,
            "not_found_error",
            "model_not_found",
        )
        slow_down(service, 0.05)
        assert told(error_of()) == (
            openai.InternalServerError,
            504,
            "timeout_error",
            "deadline_exceeded",
        )
        in_stream = error_of(stream=True)
        assert type(in_stream) is openai.APIError, "a stream's error comes after its 200"
        assert (in_stream.type, in_stream.code) == ("timeout_error", "deadline_exceeded")
        busy = threading.Thread(target=error_of, kwargs={"n": 2})
        busy.start()
        until(lambda: service.service.engine.waiting == 1)
        full = error_of()
        assert told(full) == (openai.RateLimitError, 429, "rate_limit_error", "queue_full")
        assert 1 <= int(full.response.headers["retry-after"]) <= 2
        busy.join()
        service.service.engine.current.runner.error = RuntimeError("out of memory")
        assert told(error_of()) == (
            openai.InternalServerError,
            500,
            "server_error",
            "engine_failure",
        )
        service.service.draining = True
        assert told(error_of()) == (
            openai.InternalServerError,
            503,
            "service_unavailable",
            "draining",
        )


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
        assert 'devopsgpt:rejections_total{code="queue_full"}' in service.http.get("/metrics").text
        busy.join()
