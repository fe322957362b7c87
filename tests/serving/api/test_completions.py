"""OpenAI's contract, with OpenAI's own client."""

import asyncio
import math

import openai
import pytest
import torch

from devopsgpt_model.tokenizer import Tokenizer
from serving.conftest import BLOCK_SIZE, make_model


def test_models_lists_what_is_served(service, client):
    (model,) = client.models.list().data
    assert model.id == service.name
    assert client.models.retrieve(service.name).model_dump()["version"] == "1"


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
