"""What the guard before Dagster lets pass; tests/attack/deploy/test_foreign_pages.py shows it in a
browser."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from devopsgpt_pipeline.operations.browser_guard import BrowserGuard
from devopsgpt_pipeline.settings import read_settings


def client(names=()):
    routes = [Route("/", lambda request: PlainTextResponse("here"), methods=["GET", "POST"])]
    guard = BrowserGuard(Starlette(routes=routes), names)
    return TestClient(guard, base_url="http://127.0.0.1:3000")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("dagster.example", 200),
        ("Dagster.Example:8443", 200),
        ("dagster.example.:3000", 200),
        ("10.1.2.3:80", 200),  # as a kubelet's probe
        ("localhost", 200),
        ("mlflow.example", 403),
        ("dagster.example.evil", 403),
        ("", 403),
    ],
)
def test_a_name_must_be_one_of_those_that_are_set(monkeypatch, host, status):
    monkeypatch.setenv("DEVOPSGPT_DAGSTER_HOSTS", " dagster.example , other.example")
    answer = client(read_settings().dagster_host_names).get("/", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or "DEVOPSGPT_DAGSTER_HOSTS" in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # a program
        ({"Origin": "http://127.0.0.1:3000"}, 200),
        ({"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost:3000", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "[::1]:3000", "Origin": "http://[::1]:3000"}, 200),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1.evil.test:3000"}, 403),
        ({"Origin": "http://evil.test@127.0.0.1:3000"}, 403),
        ({"Origin": "http://127.0.0.1:3000", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ({"Sec-Fetch-Site": "nonsense"}, 403),
        ({"Host": "evil.test:3000"}, 403),
        ({"Host": "evil.test:3000", "Origin": "http://evil.test:3000"}, 403),
        ({"Host": "localhost.evil.test"}, 403),
        ({"Host": "[::1"}, 403),
    ],
)
def test_what_a_request_must_say_about_where_it_comes_from(headers, status):
    assert client().post("/", headers=headers).status_code == status


def test_a_header_that_is_sent_twice_counts_each_time():
    ours, foreign = ("Origin", "http://127.0.0.1:3000"), ("Origin", "http://evil.test")
    assert client().post("/", headers=[ours, ours]).status_code == 200
    assert client().post("/", headers=[ours, foreign]).status_code == 403
