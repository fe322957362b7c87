"""Chats, for clients that know nothing else: with the operator's template, and without one."""

import openai
import pytest

from devopsgpt_serving.api.openai.chat_template import MAX_TEMPLATE_BYTES, open_chat_template
from devopsgpt_serving.errors import ApiError
from serving.conftest import serving

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def chat_service(common_shelf, tmp_path_factory):
    """A service with the shipped template."""
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    place = tmp_path_factory.mktemp("chat")
    with serving(place, **where, chat_template="plain") as running:
        running.wait_for("1")
        yield running


@pytest.fixture
def chat_client(chat_service):
    with openai.OpenAI(base_url=f"{chat_service.url}/v1", api_key="x", max_retries=0) as client:
        yield client


def test_without_a_template_a_chat_is_refused_with_the_way_out(service, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=service.name, messages=HELLO)
    assert caught.value.code == "no_chat_template"
    assert "/v1/completions" in caught.value.body["message"]
    assert "DEVOPSGPT_SERVING_CHAT_TEMPLATE" in caught.value.body["message"]


def test_a_chat_continues_the_rendered_conversation(chat_service, chat_client):
    messages = [
        {"role": "system", "content": "Notes."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    answer = chat_client.chat.completions.create(
        model=chat_service.name, messages=messages, max_tokens=12, seed=3
    )
    text = "Notes.\n\nQuestion: ab\n\nAnswer: c\n\nQuestion: d\n\nAnswer:"
    assert answer.usage.prompt_tokens == len(text)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    plain = chat_service.complete(text, max_tokens=12, seed=3).json()["choices"][0]
    assert choice.message.content == plain["text"]
    assert choice.finish_reason == "length"


def test_a_streamed_chat_adds_up_to_the_whole(chat_service, chat_client):
    asked = dict(model=chat_service.name, messages=HELLO, max_completion_tokens=20, seed=5, n=2)
    whole = chat_client.chat.completions.create(**asked)
    chunks = list(
        chat_client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    texts, reasons = {0: "", 1: ""}, {}
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert texts == {one.index: one.message.content for one in whole.choices}
    assert reasons == {0: "length", 1: "length"}
    assert chunks[-1].usage == whole.usage
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


def test_scores_of_a_chat(chat_service, chat_client):
    asked = dict(model=chat_service.name, messages=HELLO, max_tokens=6, seed=5)
    whole = chat_client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    told = whole.choices[0].logprobs.content
    assert len(told) == 6
    assert all(len(one.top_logprobs) == 2 for one in told)
    written = b"".join(bytes(one.bytes) for one in told).decode(errors="replace")
    assert written == whole.choices[0].message.content
    streamed = chat_client.chat.completions.create(
        **asked, logprobs=True, top_logprobs=2, stream=True
    )
    pieces = [one for chunk in streamed for one in (chunk.choices[0].logprobs or _none()).content]
    assert [one.logprob for one in pieces] == [one.logprob for one in told]


class _none:
    content = ()


def test_a_chat_stops_where_the_template_says(common_shelf, tmp_path):
    assert open_chat_template("plain").render(HELLO, True).stop == ("\nQuestion:",)
    own = tmp_path / "own.jinja"
    own.write_text("{% set stop = ['\\n\\n'] %}{{ messages[0].content }}")
    newline = {"10": 100}
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, chat_template=own) as service:
        service.wait_for("1")
        asked = {"model": service.name, "messages": HELLO, "max_tokens": 9, "logit_bias": newline}
        answer = service.http.post("/v1/chat/completions", json=asked).json()
        assert answer["choices"][0]["message"]["content"] == ""
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == 2


def test_a_chat_without_a_limit_fills_the_context(chat_service, chat_client):
    answer = chat_client.chat.completions.create(model=chat_service.name, messages=HELLO, seed=1)
    assert answer.usage.total_tokens == 128


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 1025}, "messages"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"n": 9}, "n"),
    ],
)
def test_what_a_chat_cannot_do_is_said(chat_service, chat_client, fields, param):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        chat_client.chat.completions.create(
            model=chat_service.name, messages=HELLO, extra_body=fields
        )
    assert caught.value.param == param


def test_a_chat_that_is_too_long_is_openais_error(chat_service, chat_client):
    with pytest.raises(openai.BadRequestError) as caught:
        chat_client.chat.completions.create(
            model=chat_service.name, messages=[{"role": "user", "content": "x" * 500}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_an_operators_template_may_refuse(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(
        "{% if messages[0].role != 'user' %}{{ raise_exception('a user begins') }}{% endif %}"
        "{{ bos_token }}{% for one in messages %}<{{ one.role }}>{{ one.content }}{% endfor %}"
    )
    template = open_chat_template(file)
    assert template.render(HELLO, True).text == "<|endoftext|><user>hello"
    with pytest.raises(ApiError, match="a user begins"):
        template.render([{"role": "assistant", "content": "x"}], True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}",
        "{{ undefined.attribute }}",
    ],
)
def test_a_template_runs_in_the_sandbox(tmp_path, source):
    file = tmp_path / "hostile.jinja"
    file.write_text(source)
    with pytest.raises(ApiError, match="the chat template refuses"):
        open_chat_template(file).render(HELLO, True)


def test_what_is_no_template_is_refused_at_the_start(tmp_path):
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}")
    large = tmp_path / "large.jinja"
    large.write_text("x" * (MAX_TEMPLATE_BYTES + 1))
    binary = tmp_path / "binary.jinja"
    binary.write_bytes(b"\xff\xfe")
    for place in (broken, large, binary, tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match="chat_template"):
            open_chat_template(place)
    assert open_chat_template(None) is None
