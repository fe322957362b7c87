"""The fields that vLLM's clients send besides OpenAI's, and those that nobody knows."""

import logging
import math

import pytest
import torch

from devopsgpt_model.tokenizer import Tokenizer
from serving.conftest import BLOCK_SIZE, Shelf, make_model, serving

EOT = 256


def ending_model():
    """A model whose every twentieth token, about, is an end-of-text."""
    model = make_model(seed=1)
    with torch.no_grad():
        model.wte.weight[EOT, 0] = 0.26
    return model


@pytest.fixture(scope="module")
def short_service(mlflow_server, tmp_path_factory):
    """A service whose model ends its answers, sooner or later."""
    shelf = Shelf(mlflow_server.url)
    shelf.publish(ending_model())
    with serving(
        tmp_path_factory.mktemp("short"), tracking_uri=shelf.url, model_name=shelf.name
    ) as running:
        running.wait_for("1")
        yield running


def choice(service, prompt="hello", **fields):
    answer = service.complete(prompt, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def ends_at(service, **fields):
    """A seed whose answer ends by itself after at least three tokens, and how many it has."""
    for seed in range(40):
        answer = service.complete("hello", seed=seed, max_tokens=100, **fields).json()
        tokens = answer["usage"]["completion_tokens"]
        if answer["choices"][0]["finish_reason"] == "stop" and tokens > 3:
            return seed, tokens
    raise AssertionError("no answer of this model ends by itself")


def test_a_generated_end_of_text_is_scored_and_counted(short_service):
    seed, tokens = ends_at(short_service)
    whole = choice(short_service, seed=seed, max_tokens=100, logprobs=1)
    assert len(whole["logprobs"]["tokens"]) == tokens
    assert whole["logprobs"]["tokens"][-1] == "<|endoftext|>"
    assert whole["logprobs"]["text_offset"][-1] == len(whole["text"])
    assert "<|endoftext|>" not in whole["text"]
    ids = [ord(character) for character in "hello" + whole["text"]]
    if all(one < 128 for one in ids):
        logits = ending_model()(torch.tensor([ids]))[0][0, -1].detach()
        expected = float(torch.log_softmax(logits, 0)[EOT])
        assert whole["logprobs"]["token_logprobs"][-1] == pytest.approx(expected, abs=1e-4)


def test_one_token_that_is_the_end_of_text_is_scored(short_service):
    """As lm-eval asks for it."""
    told = choice(short_service, max_tokens=1, echo=True, logprobs=1, logit_bias={str(EOT): 100})[
        "logprobs"
    ]
    assert told["tokens"] == [*"hello", "<|endoftext|>"]
    assert len(told["token_logprobs"]) == 6


def test_ignore_eos_goes_on_after_an_end_of_text(short_service):
    seed, tokens = ends_at(short_service)
    on = short_service.complete(
        "hello", seed=seed, max_tokens=tokens + 20, ignore_eos=True, logprobs=0
    ).json()
    assert on["usage"]["completion_tokens"] == tokens + 20
    assert on["choices"][0]["finish_reason"] == "length"
    assert "<|endoftext|>" not in on["choices"][0]["text"]
    assert on["choices"][0]["logprobs"]["tokens"].count("<|endoftext|>") >= 1
    shown = choice(
        short_service,
        seed=seed,
        max_tokens=tokens + 20,
        ignore_eos=True,
        skip_special_tokens=False,
    )
    assert shown["text"].replace("<|endoftext|>", "") == on["choices"][0]["text"]
    assert "<|endoftext|>" in shown["text"]


def test_min_tokens_holds_ends_and_stop_strings_back(short_service):
    seed, tokens = ends_at(short_service)
    answer = short_service.complete(
        "hello", seed=seed, max_tokens=tokens + 30, min_tokens=tokens + 5
    ).json()
    assert answer["usage"]["completion_tokens"] >= tokens + 5
    plain = choice(short_service, seed=seed, max_tokens=tokens + 30, min_tokens=tokens + 5)
    stop = plain["text"][0]
    held = choice(
        short_service, seed=seed, max_tokens=tokens + 30, min_tokens=tokens + 5, stop=stop
    )
    assert held["text"] == plain["text"] or len(held["text"]) > tokens
    first = choice(short_service, seed=seed, max_tokens=9)["text"][0]
    assert choice(short_service, seed=seed, max_tokens=9, stop=first)["text"] == ""


def test_stop_token_ids_end_the_answer_without_their_text(service):
    plain = choice(service, seed=5, max_tokens=30, logprobs=0, return_tokens_as_token_ids=True)
    ids = [int(name.removeprefix("token_id:")) for name in plain["logprobs"]["tokens"]]
    last = ids[10]
    first = ids.index(last)
    ended = choice(service, seed=5, max_tokens=30, stop_token_ids=[last], logprobs=0)
    assert ended["finish_reason"] == "stop"
    assert len(ended["logprobs"]["tokens"]) == first + 1
    text = Tokenizer.plain_bytes().decode(ids[:first])
    assert ended["text"] == text


def test_logit_bias_forces_and_forbids(service):
    assert choice(service, max_tokens=5, logit_bias={"97": 100})["text"] == "aaaaa"
    greedy = choice(
        service, max_tokens=1, temperature=0, logprobs=0, return_tokens_as_token_ids=True
    )
    best = greedy["logprobs"]["tokens"][0].removeprefix("token_id:")
    other = choice(
        service,
        max_tokens=1,
        temperature=0,
        logprobs=0,
        return_tokens_as_token_ids=True,
        logit_bias={best: -100},
    )
    assert other["logprobs"]["tokens"][0] != greedy["logprobs"]["tokens"][0]


@pytest.mark.parametrize("greedy", [{"top_p": 0}, {"min_p": 1}, {"temperature": 0, "top_p": 0}])
def test_what_leaves_one_token_is_greedy(service, greedy):
    likeliest = choice(service, max_tokens=20, temperature=0)["text"]
    assert choice(service, max_tokens=20, seed=3, **greedy)["text"] == likeliest


@pytest.mark.parametrize("same", [{"top_k": -1}, {"min_p": 0}, {"min_tokens": 0}, {"top_k": 0}])
def test_what_changes_nothing_changes_nothing(service, same):
    plain = choice(service, max_tokens=20, seed=3)["text"]
    assert choice(service, max_tokens=20, seed=3, **same)["text"] == plain


def test_an_end_of_text_in_a_prompt_is_the_token_unless_told_otherwise(service):
    text = "a<|endoftext|>b"
    special = choice(service, text, max_tokens=0, echo=True, logprobs=0)
    assert special["text"] == text
    assert special["logprobs"]["tokens"] == ["a", "<|endoftext|>", "b"]
    plain = choice(service, text, max_tokens=0, echo=True, logprobs=0, parse_special=False)
    assert len(plain["logprobs"]["tokens"]) == len(text)
    by_ids = choice(service, [97, EOT, 98], max_tokens=0, echo=True, logprobs=0)
    assert by_ids["logprobs"]["token_logprobs"] == special["logprobs"]["token_logprobs"]
    asked = service.generate(text, max_token_len=1, temperature=0).json()
    assert asked["usage"]["prompt_tokens"] == len(text), "/api/generate keeps it as text"


def test_the_setting_decides_where_a_request_does_not(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, parse_special=False) as service:
        service.wait_for("1")
        count = len("<|endoftext|>")
        assert service.complete("<|endoftext|>").json()["usage"]["prompt_tokens"] == count
        asked = service.complete("<|endoftext|>", parse_special=True).json()
        assert asked["usage"]["prompt_tokens"] == 1


def test_truncate_prompt_tokens_reads_the_end_of_a_prompt(service):
    last = choice(service, "abcdef", max_tokens=0, echo=True, logprobs=0, truncate_prompt_tokens=2)
    assert last["text"] == "ef"
    assert last["logprobs"]["tokens"] == ["e", "f"]
    long = service.complete("x" * 500, max_tokens=1, truncate_prompt_tokens=-1).json()
    assert long["usage"]["prompt_tokens"] == BLOCK_SIZE - 1
    endless = service.complete("x" * 100_001, max_tokens=1, truncate_prompt_tokens=-1)
    assert endless.status_code == 400
    assert "at most 100000 characters are encoded, got 100001" in endless.text


def test_many_prompts_are_answered_in_order(service):
    prompts = [f"prompt {number}" for number in range(128)]
    answer = service.complete(prompts, max_tokens=2, temperature=0, echo=True).json()
    texts = [one["text"] for one in answer["choices"]]
    assert [one["index"] for one in answer["choices"]] == list(range(128))
    assert all(text.startswith(prompt) for text, prompt in zip(texts, prompts, strict=True))
    assert texts[5] == choice(service, prompts[5], max_tokens=2, temperature=0, echo=True)["text"]
    streamed = service.complete(prompts, max_tokens=1, temperature=0, stream=True).text
    assert streamed.count('"finish_reason":"length"') == 128


def test_many_prompts_leave_room_to_others(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, max_batch_size=2, max_queue=4, max_choices=2) as service:
        service.wait_for("1")
        with service.http.stream(
            "POST",
            "/v1/completions",
            json={"model": service.name, "prompt": ["x"] * 100, "max_tokens": 20, "stream": True},
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert service.complete("y", max_tokens=1).status_code == 200
            rest = "\n".join(lines)
        assert rest.count('"finish_reason":"length"') == 100
        assert service.service.engine.waiting == 0


def test_unknown_fields_are_ignored_and_named(service, caplog):
    caplog.set_level(logging.INFO)
    fields = {"my_field": 1, "bad\r\nname, too": 2, "ü": 3, "response_format": {"type": "text"}}
    for _ in range(2):
        answer = service.complete("x", max_tokens=1, **fields)
        assert answer.status_code == 200
        named = answer.headers["X-Ignored-Fields"]
        assert named == r"my_field, bad\u000d\u000aname\u002c\u0020too, \u00fc, response_format"
    logged = [one for one in caplog.records if "my_field" in getattr(one, "fields", ())]
    assert len(logged) == 1
    assert "X-Ignored-Fields" not in service.complete("x", max_tokens=1).headers
    many = {f"field{number}" + "x" * 200: number for number in range(60)}
    header = service.complete("x", max_tokens=1, stream=True, **many).headers["X-Ignored-Fields"]
    assert len(header) < 1000
    assert service.complete("x", stream_options={"other": 1}, stream=True).status_code == 200


def test_scores_of_forbidden_tokens_stay_the_models_own(service):
    told = choice(service, max_tokens=3, logit_bias={"97": 100}, logprobs=1)["logprobs"]
    assert all(-math.inf < value < 0 for value in told["token_logprobs"])


@pytest.mark.parametrize(
    ("field", "meant"),
    [("max_tokens", "max_token_len"), ("n", "iterations"), ("temprature", "temperature")],
)
def test_the_originals_route_suggests_the_right_name(service, field, meant):
    answer = service.generate("x", **{field: 1})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (field, "unknown_field")
    assert error["message"] == f"{field}: there is no such field; use {meant}"
    other = service.generate("x", zzz=1).json()["error"]["message"]
    assert other == "zzz: there is no such field; leave it out; /docs lists those there are"
