"""What a caller without a key learns, what a page may do, what a log shows."""

import json
import logging
import re

import pytest
from serving.conftest import serving

from attack.serving.raw import connected, everything
from devopsgpt_serving.logs import JsonLines

KEY = {"Authorization": "Bearer the-key"}


@pytest.fixture(scope="module")
def guarded(common_shelf, tmp_path_factory):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    place = tmp_path_factory.mktemp("guarded")
    with serving(place, **where, api_keys="the-key") as running:
        running.wait_for("1")
        yield running


def test_a_stranger_learns_whether_it_is_ready_and_no_more(guarded, tried):
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = guarded.http.get("/api/readyz", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
        assert guarded.http.get("/metrics", headers=headers).status_code == 401
        for path in ("/api/readyz", "/api/healthz", "/v1/models", "/docs", "/nothing"):
            seen = guarded.http.get(path, headers=headers)
            assert "x-model-version" not in seen.headers
            assert guarded.name not in seen.text
    known = guarded.http.get("/api/readyz", headers=KEY)
    assert known.json()["version"] == known.headers["x-model-version"] == "1"
    assert guarded.http.get("/metrics", headers=KEY).status_code == 200
    tried("readyz and metrics without a key, where keys are set", "ready or not; 401")


def test_metrics_can_be_opened_for_a_prometheus(tmp_path):
    where = dict(tracking_uri="http://127.0.0.1:9", poll_interval_s=60)
    with serving(tmp_path, **where, api_keys="the-key", open_metrics=True) as service:
        assert service.http.get("/metrics").status_code == 200
        assert service.http.get("/v1/models").status_code == 401


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1//models", "/v1/models/", "/%2Fv1/models", "//v1/models//"]
)
def test_slashes_do_not_lead_past_the_key(guarded, tried, path):
    def status(key=""):
        asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n"
        with connected(guarded, asked.encode()) as opened:
            return int(everything(opened).split()[1])

    assert (status(), status("Authorization: Bearer the-key\r\n")) == (401, 200)
    tried(f"GET {path} without a key", "401")


@pytest.mark.parametrize("path", ["/docs/", "//docs", "/docs/assets", "/api/healthz/", "/nothing/"])
def test_host_is_never_reflected(bare, tried, path):
    asked = f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    with connected(bare, asked.encode()) as opened:
        answer = everything(opened)
    assert b"evil.example" not in answer
    assert int(answer.split()[1]) in (200, 404, 405)
    tried(f"GET {path} with a foreign Host", f"{answer.split()[1].decode()}, Host not in it")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_runs_only_what_it_was_sent_with(bare, tried, path):
    answer = bare.http.get(path)
    rules = dict(
        rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; ")
    )
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert len(re.findall("'sha256-", rules["script-src"])) == 1
    tried(f"the policy of {path}", rules["script-src"])


def test_what_is_no_page_cannot_be_shown_as_one(bare):
    for path in ("/api/healthz", "/nothing", "/openapi.json", "/metrics"):
        headers = bare.http.get(path).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"


def test_a_log_line_shows_what_cannot_be_seen(tried):
    hostile = "a\x1b[2Kb\x9b31m\u202ecod\u2066e\u2028\u200b\x7f\ud800"
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", (hostile,), None)
    record.path = hostile
    line = JsonLines().format(record)
    line.encode()
    assert line.isprintable()
    assert json.loads(line)["message"] == json.loads(line)["path"] == hostile
    assert "naïve “text”" in JsonLines().format(
        logging.LogRecord("x", logging.INFO, "f", 1, "naïve “text”", (), None)
    )
    tried("escapes, marks of direction and half a surrogate in a log line", "escaped, one line")
