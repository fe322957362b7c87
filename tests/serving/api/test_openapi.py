"""Schemathesis against the service's own OpenAPI document: every answer must be one that is
described there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from devopsgpt_serving.api.openapi import numbers_up_to
from serving.conftest import Shelf, make_model, serving

SCHEMATHESIS = shutil.which("schemathesis", path=Path(sys.executable).parent)
KEY = "the-key"


@pytest.fixture(scope="module")
def guarded(mlflow_server, tmp_path_factory):
    """A service that asks for keys, and answers shortly. Its context is long: no schema can say
    what 400 says."""
    shelf = Shelf(mlflow_server.url)
    shelf.publish(make_model(block_size=4096))
    where = dict(tracking_uri=shelf.url, model_name=shelf.name, api_keys=KEY, poll_interval_s=60)
    where["chat_template"] = "plain"
    with serving(
        tmp_path_factory.mktemp("guarded"), **where, max_tokens=32, max_choices=4, max_prompts=3
    ) as service:
        service.wait_for("1")
        yield service


def findings(service, folder, *options, document=None):
    """What Schemathesis says, once it found something."""
    where = document or f"{service.url}/openapi.json"
    command = [SCHEMATHESIS, "run", where, "--header", f"Authorization: Bearer {KEY}"]
    fixed = ["--seed", "1", "--generation-database", "none", "--warnings", "off", "--no-color"]
    done = subprocess.run(
        [*command, *fixed, *options], cwd=folder, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr)
    return done.stdout if done.returncode else ""


def test_schemathesis_finds_nothing(guarded, tmp_path):
    assert findings(guarded, tmp_path, "--max-examples", "40") == ""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_schemathesis_finds_nothing_in_two_minutes(guarded, tmp_path):
    assert findings(guarded, tmp_path, "--max-time", "120") == ""


@pytest.mark.slow
def test_schemathesis_would_find_an_answer_that_is_not_described(guarded, tmp_path):
    document = guarded.http.get("/openapi.json").json()
    del document["paths"]["/v1/completions"]["post"]["responses"]["422"]
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    found = findings(
        guarded, tmp_path, "--url", guarded.url, "--max-examples", "20", document="openapi.json"
    )
    assert "Undocumented status code" in found


def test_a_default_stays_below_the_limit(guarded):
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = guarded.http.post("/api/generate", json={"prompt": "hello"}, headers=headers)
    assert answer.json()["usage"]["completion_tokens"] == 32


def test_the_document_tells_the_vocabulary_and_the_keys(guarded, service):
    document = guarded.http.get("/openapi.json").json()
    forms = document["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"]["anyOf"]
    assert forms[1]["items"]["maximum"] == forms[3]["items"]["items"]["maximum"] == 256
    assert [form.get("maxItems") for form in forms[:4]] == [None, None, 3, 3]
    assert len(document["components"]["schemas"]["CompletionRequest"]["anyOf"]) == 1 + 4, (
        "best_of: null, or n of 1..4"
    )
    asking = {
        path
        for path, routes in document["paths"].items()
        if any("security" in one for one in routes.values())
    }
    assert asking == {
        "/api/generate",
        "/admin/reload",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/completions",
        "/v1/chat/completions",
        *("/load", "/tokenize", "/detokenize"),
    }
    assert "securitySchemes" not in service.http.get("/openapi.json").json()["components"]


@pytest.mark.parametrize("most", [0, 7, 10, 99, 100, 256, 1999, 50256])
def test_a_pattern_of_numbers_holds_them_and_no_others(most):
    pattern = re.compile(f"^({numbers_up_to(most)})$")
    fitting = [number for number in range(most + 2000) if pattern.match(str(number))]
    assert fitting == list(range(most + 1))
    assert not pattern.match("-1")
