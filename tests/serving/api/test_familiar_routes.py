"""The routes that probes, benchmarks and people who know vLLM ask for first."""

import threading

import pytest

from serving.api.test_limits import slow_down
from serving.conftest import BLOCK_SIZE, serving, until

EOT = 256


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_health_is_an_empty_200(service, path):
    answer = service.http.get(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_version_is_the_packages(service):
    assert service.http.get("/version").json() == {"version": service.app.version}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_tells_of_a_dead_engine(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where) as service:
        service.wait_for("1")
        slow_down(service, 0)
        service.service.engine.current.runner.error = SystemExit()
        service.complete("x")  # answered before the thread is at its end
        paths = ("/health", "/ping")
        until(lambda: [service.http.get(path).status_code for path in paths] == [500, 500])


def test_load_counts_what_is_computed_and_waits(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, max_batch_size=1) as service:
        service.wait_for("1")
        assert service.http.get("/load").json() == {"server_load": 0}
        slow_down(service, 0.05)
        asked = dict(max_tokens=60, n=3)
        thread = threading.Thread(target=service.complete, args=("x",), kwargs=asked)
        thread.start()
        until(lambda: service.service.engine.running == 1)
        assert service.http.get("/load").json() == {"server_load": 3}
        thread.join()


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/metrics", "/v1/models", "/api/healthz", "/health"]
)
def test_head_answers_where_get_does(service, path):
    answer = service.http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"].isdecimal()
    kind = service.http.get(path).headers.get("content-type")
    assert answer.headers.get("content-type") == kind


def test_head_of_what_only_takes_post_is_405(service):
    assert service.http.head("/v1/completions").status_code == 405


@pytest.mark.parametrize("path", ["//v1//models", "/v1/models/", "//v1/models"])
def test_slashes_too_many_do_no_harm(service, path):
    assert service.http.get(f"{service.url}{path}").json()["data"][0]["id"] == service.name


def test_models_tell_the_context_and_no_lineage(service):
    (listed,) = service.http.get("/v1/models").json()["data"]
    assert listed["max_model_len"] == BLOCK_SIZE
    assert "lineage" not in listed
    assert "tags" not in listed
    card = service.http.get(f"/v1/models/{service.name}").json()
    assert card["tags"]["val_loss"] == "1.5"


def test_a_text_and_its_tokens(service):
    def tokenize(**fields):
        return service.http.post("/tokenize", json=fields).json()

    told = tokenize(prompt="aé<|endoftext|>", model=service.name, return_token_strs=True)
    assert told == {
        "count": 4,
        "max_model_len": BLOCK_SIZE,
        "tokens": [97, 195, 169, EOT],
        "token_strs": ["a", "bytes:\\xc3", "bytes:\\xa9", "<|endoftext|>"],
    }
    assert tokenize(prompt="<|endoftext|>", parse_special=False)["count"] == 13
    assert tokenize(prompt="")["tokens"] == []
    back = service.http.post("/detokenize", json={"tokens": told["tokens"]})
    assert back.json() == {"prompt": "aé<|endoftext|>"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 422, "prompt"),
        (
            "/tokenize",
            {"prompt": "x", "messages": [{"role": "user", "content": "x"}]},
            422,
            "prompt",
        ),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}]}, 400, None),
        ("/tokenize", {"prompt": "x", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": "x" * 100_001}, 400, "prompt"),
        ("/detokenize", {"tokens": [257]}, 422, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 422, "tokens"),
        ("/detokenize", {"tokens": ["1"]}, 422, "tokens"),
        ("/detokenize", {"tokens": [1] * 100_001}, 422, "tokens"),
    ],
)
def test_what_has_no_tokens_is_said(service, path, body, status, param):
    answer = service.http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_conversation_has_tokens_where_there_is_a_template(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, chat_template="plain") as service:
        service.wait_for("1")
        messages = [{"role": "user", "content": "x"}]
        told = service.http.post("/tokenize", json={"messages": messages}).json()
        assert told["count"] == len("Question: x\n\nAnswer:")


def test_a_key_guards_what_tells_of_the_model(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, api_keys="the-key") as service:
        service.wait_for("1")
        for method, path in (("GET", "/load"), ("POST", "/tokenize"), ("POST", "/detokenize")):
            assert service.http.request(method, path, json={}).status_code == 401, path
            keyed = {"Authorization": "Bearer the-key"}
            assert service.http.request(method, path, json={}, headers=keyed).status_code != 401
        for path in ("/health", "/ping", "/version"):
            assert service.http.get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/embeddings"), ("POST", "/v1/responses"), ("GET", "/v1/files")],
)
def test_openais_other_routes_name_those_there_are(service, method, path):
    answer = service.http.request(method, path, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    message = answer.json()["error"]["message"]
    assert message.startswith(f"there is no {method} '{path}' here; there are GET /v1/models,")
    for route in ("POST /v1/completions", "POST /v1/chat/completions"):
        assert route in message


def test_each_route_has_a_summary_and_an_example(service):
    document = service.http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert " " in operation["summary"], (method, path)
            assert operation["description"].endswith("."), (method, path)
            body = operation.get("requestBody")
            if body is not None:
                assert body["content"]["application/json"]["examples"], (method, path)
