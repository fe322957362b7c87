"""The original's routes, over real HTTP."""

import pytest

from devopsgpt_model.generate import generate_text
from devopsgpt_model.tokenizer import Tokenizer
from serving.conftest import BLOCK_SIZE, make_model, serving


def test_healthz_is_the_originals(service):
    assert service.http.get("/api/healthz").json() == {"api_healthy": True}


def test_a_service_without_its_engine_is_neither_healthy_nor_ready(common_shelf, tmp_path):
    with serving(tmp_path, tracking_uri=common_shelf.url, model_name=common_shelf.name) as service:
        service.wait_for("1")
        service.service.engine.stop()
        health, ready = (service.http.get(f"/api/{name}") for name in ("healthz", "readyz"))
        assert (health.status_code, health.json()) == (500, {"api_healthy": False})
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert ready.json()["problem"] == "the engine's thread ended; restart the service"


def test_readyz_tells_version_and_tags(service):
    answer = service.ready()
    assert answer["ready"] is True
    assert answer["version"] == "1"
    assert answer["tags"]["val_loss"] == "1.5"
    assert answer["problem"] is None


def test_generate_answers_as_the_model_does(service):
    answer = service.generate("hello", max_token_len=20, seed=5).json()
    expected = generate_text(
        make_model(1), Tokenizer.plain_bytes(), "hello", 20, temperature=0.8, seed=5
    )
    assert answer["completions"] == [{"text": expected, "finish_reason": "length"}]
    assert (answer["model"], answer["version"]) == (service.name, "1")
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25}


def test_the_originals_query_parameters_work(service):
    query = {"prompt": "hello", "pre_prompt": "first", "max_token_len": 3, "iterations": 2}
    answer = service.http.post("/api/generate", params=query)
    assert answer.status_code == 200
    assert len(answer.json()["completions"]) == 2
    assert answer.json()["usage"]["prompt_tokens"] == len("first hello")
    assert answer.json()["usage"]["completion_tokens"] == 6


def test_the_body_wins_over_the_query(service):
    answer = service.http.post(
        "/api/generate", params={"prompt": "abc", "max_token_len": 2}, json={"prompt": "hello"}
    )
    assert answer.json()["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def test_pre_prompt_stands_before_the_prompt(service):
    joined = service.generate(
        "the prompt", pre_prompt="Before it,", max_token_len=12, temperature=0
    ).json()
    whole = service.generate("Before it, the prompt", max_token_len=12, temperature=0).json()
    assert joined["completions"] == whole["completions"]


def test_iterations_are_different_answers(service):
    texts = [
        one["text"] for one in service.generate("x", iterations=4, seed=1).json()["completions"]
    ]
    assert len(set(texts)) == 4


def test_any_character_is_welcome(service):
    prompt = "naïve café — “quotes” 日本語 🙂 \x00 \u202e"
    answer = service.generate(prompt, max_token_len=4)
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] == len(prompt.encode())


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"prompt": ""}, 422, "prompt", "the prompt must have at least one character"),
        ({"prompt": "x" * BLOCK_SIZE}, 400, "prompt", f"at most {BLOCK_SIZE - 1} tokens"),
        (
            {"prompt": "x", "max_token_len": 0},
            422,
            "max_token_len",
            "greater than or equal to 1, got 0",
        ),
        (
            {"prompt": "x", "max_token_len": 9999},
            422,
            "max_token_len",
            "at most 4096 tokens may be asked for, got 9999",
        ),
        ({"prompt": "x", "iterations": 9}, 422, "iterations", "at most 8 answers"),
        ({"prompt": "x", "temperature": 3}, 422, "temperature", "less than or equal to 2, got 3"),
        ({"prompt": "x", "top_p": -1}, 422, "top_p", "greater than or equal to 0, got -1"),
        ({"prompt": "x", "stop": ""}, 422, "stop", "at least 1 character"),
        ({"prompt": "x", "stop": ["a"] * 17}, 422, "stop", ""),
        ({"prompt": "x", "wrong": 1}, 422, "wrong", "there is no such field"),
        ({"prompt": "x", "top_k": True}, 422, "top_k", "should be a number, got True"),
        ({"prompt": "x", "max_token_len": "5"}, 422, "max_token_len", "should be a number"),
        ({"prompt": 7}, 422, "prompt", "valid string"),
    ],
)
def test_bad_requests_get_one_clear_message(service, fields, status, param, message):
    answer = service.http.post("/api/generate", json=fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_an_empty_query_is_an_empty_prompt(service):
    assert service.http.post("/api/generate?prompt=").json()["error"]["code"] == "empty_prompt"


def test_no_prompt_begins_a_document(service):
    answer = service.http.post("/api/generate").json()
    assert answer["usage"]["prompt_tokens"] == 1
    assert (
        service.http.post("/api/generate", json={"pre_prompt": "abc"}).json()["usage"][
            "prompt_tokens"
        ]
        == 3
    )


def test_the_document_tells_the_limits(service):
    schemas = service.http.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["GenerateRequest"]["properties"]["iterations"]["maximum"] == 8
    assert schemas["CompletionRequest"]["properties"]["max_tokens"]["anyOf"][0]["maximum"] == 4096


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'"x"', b'{"prompt": "\\ud800"}', b'{"prompt": NaN}', b"\xff\xfe"]
)
def test_bodies_that_are_no_request_are_refused(service, content):
    answer = service.http.post(
        "/api/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error"}


def test_a_form_body_is_told_what_to_be(service):
    answer = service.http.post("/api/generate", data={"prompt": "x"})
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_prompt_that_just_fits_gets_its_one_token(service):
    answer = service.generate("x" * (BLOCK_SIZE - 1)).json()
    assert answer["completions"][0]["finish_reason"] in ("length", "stop")
    assert answer["usage"]["completion_tokens"] <= 1


def test_the_end_of_the_context_is_a_length(service):
    answer = service.generate("x" * 100, max_token_len=1000, seed=3).json()
    assert answer["completions"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == BLOCK_SIZE


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/api/generate"])
def test_unknown_routes_and_methods_have_the_same_form(service, path):
    answer = service.http.get(path)
    assert answer.status_code in (404, 405)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/api/healthz", "/nowhere", "/v1/models", "/", "/metrics"])
def test_every_answer_has_request_id_and_version(service, path):
    headers = service.http.get(path, headers={"X-Request-ID": "abc-1"}).headers
    assert (headers["x-request-id"], headers["x-model-version"]) == ("abc-1", "1")


def test_a_strange_request_id_is_replaced(service):
    given = "x" * 200
    assert (
        service.http.get("/api/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
        != given
    )
