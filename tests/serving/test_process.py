"""`python -m devopsgpt_serving` as a process: starts in any weather, leaves calmly."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import requests

from devopsgpt_model.generate import generate_text
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.settings import Settings
from serving.conftest import make_model, until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(tmp_path, under=(), **settings):
    """under: a command that runs the service's"""
    port = free_port()
    defaults = {
        "port": port,
        "cache_dir": tmp_path / "cache",
        "poll_interval_s": 0.1,
        "shutdown_delay_s": 0.3,
    }
    named = defaults | {"precision": "float32"} | settings
    environment = {f"DEVOPSGPT_SERVING_{name.upper()}": str(value) for name, value in named.items()}
    command = [*under, sys.executable, "-W", "error", "-m", "devopsgpt_serving"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(command, env=os.environ | environment, stderr=log, stdout=log)
    try:
        yield running, f"http://127.0.0.1:{port}", tmp_path / "log"
    finally:
        running.kill()
        running.wait()


def status(url):
    try:
        # asked over and over: httpx.get reads certificates each time
        return requests.get(url, timeout=2).status_code
    except requests.RequestException:
        return None


def assert_whole(lines, answers, tokens):
    """That a stream ends as it should: one that was given up ends with [DONE], too."""
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2] if line]
    assert not [event for event in events if "error" in event]
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["length"] * answers
    assert events[-1]["usage"]["completion_tokens"] == tokens


def test_it_drains_on_sigterm(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    # the delay keeps the service draining long enough to be looked at, however fast it answers
    calm = dict(max_batch_size=1, shutdown_delay_s=2, poll_interval_s=60)
    with process(tmp_path, **where, **calm) as (running, url, log):
        until(lambda: status(f"{url}/api/readyz") == 200, say=log.read_text)
        body = {
            "model": common_shelf.name,
            "prompt": "x",
            "max_tokens": 120,
            "n": 8,
            "stream": True,
        }
        body |= {"stream_options": {"include_usage": True}}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            running.send_signal(signal.SIGTERM)
            until(lambda: status(f"{url}/api/readyz") == 503, seconds=1)
            assert status(f"{url}/api/healthz") == 200
            assert (
                httpx.post(f"{url}/api/generate", json={"prompt": "x"}).json()["error"]["code"]
                == "draining"
            )
            assert_whole([first, *lines], answers=8, tokens=8 * 120)
        assert running.wait(10) == 0
        logged = [json.loads(line) for line in log.read_text().splitlines()]
        requests = [
            line
            for line in logged
            if line["message"] == "request" and line["path"] == "/v1/completions"
        ]
        assert requests[0]["version"] == "1"
        assert requests[0]["request_id"]


@pytest.mark.slow
def test_an_idle_connection_is_kept_for_longer_than_clients_keep_it(tmp_path):
    with process(tmp_path, tracking_uri="http://127.0.0.1:9") as (_, url, log):
        until(lambda: status(f"{url}/api/healthz") == 200, say=log.read_text)
        connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=5)
        for wait_s in (0, 7):
            time.sleep(wait_s)
            connection.request("GET", "/api/healthz")
            assert connection.getresponse().read() == b'{"api_healthy":true}'
            connection.auto_open = 0  # from here on, a closed connection is an error
        connection.close()


def test_a_stream_that_does_not_end_is_cut_off_in_time(common_shelf, tmp_path):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, max_batch_size=1)
    with process(tmp_path, **where, drain_s=1) as (running, url, log):
        until(lambda: status(f"{url}/api/readyz") == 200, say=log.read_text)
        body = {
            "model": common_shelf.name,
            "prompt": "x",
            "max_tokens": 120,
            "n": 8,
            "stream": True,
        }
        with ExitStack() as open_streams:
            for _ in range(8):  # some 7,000 tokens, one at a time
                stream = httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30)
                open_streams.enter_context(stream)
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
            # and not the 15 s that the answers would have taken
            assert 1 < time.monotonic() - began < 8


def test_a_download_does_not_hold_up_the_end(common_shelf, tmp_path, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    proxy.mode = "stall"
    where = dict(tracking_uri=proxy.url, model_name=common_shelf.name, drain_s=60)
    with process(tmp_path, **where) as (running, url, log):
        until(lambda: any("safetensors" in path for path in proxy.requests), say=log.read_text)
        until(lambda: status(f"{url}/api/healthz") == 200, say=log.read_text)
        reload = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=60)
        reload.request("POST", "/admin/reload")  # of a look that begins after this download
        assert status(f"{url}/api/healthz") == 200
        running.send_signal(signal.SIGTERM)
        assert json.loads(reload.getresponse().read())["problem"] == "the service is stopping"
        reload.close()
        assert running.wait(30) == 0
        assert '"Finished server process' in log.read_text()
    assert list((tmp_path / "cache").glob(".download-*")), "the download was under way"


def answer_of(url):
    answer = httpx.post(
        f"{url}/api/generate", json={"prompt": "hello", "seed": 1, "max_token_len": 20}, timeout=10
    )
    return answer.status_code, answer.json()


def version_at(url):
    try:
        return httpx.get(f"{url}/api/readyz", timeout=5).json()["version"]
    except httpx.TransportError:
        return None


def halves(cache, whole):
    """Weights that were cut off on their way."""
    return [
        path
        for path in cache.glob(".download-*/model/*safetensors*")
        if 0 < path.stat().st_size < whole
    ]


def test_kill_9_during_a_download_leaves_the_last_good_version(shelf, tmp_path, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # longer than the registry stands still
    large, cache = make_model(2, n_embd=384), tmp_path / "cache"
    whole = sum(tensor.nbytes for tensor in large.state_dict().values())
    where = dict(tracking_uri=proxy.url, model_name=shelf.name)
    shelf.publish(seed=1)
    with process(tmp_path, **where) as (running, url, log):
        until(lambda: version_at(url) == "1", say=log.read_text)
        expected = answer_of(url)
        proxy.mode = "stall"
        shelf.publish(large)
        until(lambda: halves(cache, whole), say=log.read_text)
        assert answer_of(url) == expected
        running.send_signal(signal.SIGKILL)
        running.wait()
    (half,) = halves(cache, whole)
    with process(tmp_path, **where) as (_, url, log):
        until(lambda: version_at(url) == "1", say=log.read_text)
        assert not half.exists()
        ready = httpx.get(f"{url}/api/readyz").json()
        assert ready["from_cache"]
        assert ready["problem"] == "version 2 is being fetched"
        assert answer_of(url) == expected
        until(lambda: halves(cache, whole), say=log.read_text)
        proxy.requests.clear()
        proxy.mode = "pass"  # the download under way ends early; the next look starts it anew
        until(lambda: version_at(url) == "2", say=log.read_text)
        assert any("safetensors" in path for path in proxy.requests)
        _, answer = answer_of(url)
        text = generate_text(large, Tokenizer.plain_bytes(), "hello", 20, temperature=0.8, seed=1)
        assert answer["completions"][0]["text"] == text
    assert list(cache.glob(".download-*")) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_download_leaves_the_last_good_version(shelf, tmp_path):
    where = dict(tracking_uri=shelf.url, model_name=shelf.name)
    shelf.publish(seed=1)
    # KiB; the system refuses to write more
    small_files = ["bash", "-c", 'ulimit -f 1000; exec "$@"', "-"]
    with process(tmp_path, small_files, **where) as (_, url, log):
        until(lambda: version_at(url) == "1", say=log.read_text)
        expected = answer_of(url)
        shelf.publish(make_model(2, n_embd=384))
        until(
            lambda: "File too large" in (httpx.get(f"{url}/api/readyz").json()["problem"] or ""),
            say=log.read_text,
        )
        assert answer_of(url) == expected
        until(lambda: list((tmp_path / "cache").glob(".download-*")) == [])


def test_it_lives_without_a_registry(tmp_path):
    began = time.monotonic()
    with process(tmp_path, tracking_uri="http://127.0.0.1:9", model_name="nothing") as (
        running,
        url,
        log,
    ):
        until(lambda: status(f"{url}/api/healthz") == 200, say=log.read_text)
        assert time.monotonic() - began < 15
        assert status(f"{url}/api/readyz") == 503
        running.send_signal(signal.SIGINT)
        assert running.wait(10) in (0, 130, -signal.SIGINT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "DEVOPSGPT_SERVING_API_KEYS"),
        ({"port": "many"}, "DEVOPSGPT_SERVING_PORT: "),
        ({"device": "cuda:9"}, "device 'cuda:9' is not to be had here"),
        ({"cache_dir": "/dev/null/cache"}, "set DEVOPSGPT_SERVING_CACHE_DIR"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, settings, message):
    with process(tmp_path, **settings) as (running, _, log):
        assert running.wait(30) == 1
        assert message in log.read_text()
        assert len(log.read_text().splitlines()) == 1


def test_a_taken_port_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with process(tmp_path, port=port) as (running, _, log):
            assert running.wait(30) == 1
            assert f"cannot listen on 127.0.0.1:{port}" in log.read_text()
            assert "DEVOPSGPT_SERVING_PORT" in log.read_text()


def test_help_lists_every_setting():
    told = subprocess.run(
        [sys.executable, "-m", "devopsgpt_serving", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in ("--host", "--port", "--tracking-uri", "--api-keys-file"):
        assert option in told
    for name in Settings.model_fields:
        assert f"DEVOPSGPT_SERVING_{name.upper()} " in told


def test_the_command_line_wins_over_the_environment(tmp_path):
    environment = os.environ | {"DEVOPSGPT_SERVING_HOST": "127.0.0.1"}
    told = subprocess.run(
        [sys.executable, "-m", "devopsgpt_serving", "--host", "0.0.0.0", "--port", "0"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert "host 0.0.0.0 is reachable from elsewhere and no API key is set" in told.stderr
