"""OpenAI's contract, with OpenAI's own client."""

import math

import openai
import pytest
import torch

from devopsgpt_model.tokenizer import Tokenizer
from serving.conftest import BLOCK_SIZE, make_model


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
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_options_tells_no_usage(service, client):
    chunks = list(client.completions.create(model=service.name, prompt="hello", max_tokens=3, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "usage" not in chunks[0].model_fields_set


@pytest.mark.parametrize("prompt", ["ab", [97, 98], [97.0, 98.0], ["ab"], [[97, 98]]])
def test_each_form_of_a_prompt_means_the_same(service, client, prompt):
    answer = client.completions.create(model=service.name, prompt=prompt, temperature=0, max_tokens=8, echo=True)
    assert answer.choices[0].text.startswith("ab")
    assert answer.usage.prompt_tokens == 2


def test_several_prompts_and_answers_come_in_order(service, client):
    answer = client.completions.create(model=service.name, prompt=["a", "b"], n=2, max_tokens=5, seed=3, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    assert answer.usage.prompt_tokens == 2
    assert answer.choices[0].text != answer.choices[1].text


def test_no_prompt_begins_a_document(service, client):
    answer = client.completions.create(model=service.name, prompt=None, max_tokens=4)
    assert answer.usage.prompt_tokens == 1


def test_logprobs_are_the_models_own(service, client):
    answer = client.completions.create(model=service.name, prompt="ab", max_tokens=6, logprobs=3, echo=True, seed=2)
    told = answer.choices[0].logprobs
    assert len(told.tokens) == 8
    assert told.token_logprobs[0] is None
    assert told.text_offset[:3] == [0, 1, 2]
    ids = Tokenizer.plain_bytes().encode("ab")
    expected = torch.log_softmax(make_model(1)(torch.tensor([ids]))[0][0, 0].detach(), 0)[98]
    assert told.token_logprobs[1] == pytest.approx(float(expected), abs=1e-4)
    assert all(len(top) == 3 for top in told.top_logprobs[1:])
    assert all(-math.inf < value <= 0 for value in told.token_logprobs[1:])


def test_streamed_logprobs_are_the_same(service, client):
    asked = dict(model=service.name, prompt="ab", max_tokens=12, logprobs=2, echo=True, seed=2)
    whole = client.completions.create(**asked).choices[0].logprobs
    pieces = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        assert [each for piece in pieces for each in getattr(piece, name)] == getattr(whole, name), name


def test_a_text_can_be_scored_up_to_the_whole_context(service, client):
    prompt = "x" * BLOCK_SIZE
    answer = client.completions.create(model=service.name, prompt=prompt, max_tokens=0, echo=True, logprobs=0)
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
        ({"prompt": "x", "n": 17}, "n"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "frequency_penalty": 2.1}, "frequency_penalty"),
        ({"prompt": "x", "stream_options": {"other": 1}}, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_said(service, client, fields, param):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model=service.name, extra_body=fields, prompt="x")
    assert caught.value.param == param


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
