"""Headers without end, requests that never arrive, more connections than there may be."""

import resource
import time
from contextlib import ExitStack

import httpx
import pytest
from serving.conftest import serving, until

from attack.serving.raw import (
    connected,
    everything,
    health_s,
    memory,
    refusal,
    send_until_closed,
)
from devopsgpt_serving.connections import SPARE_DESCRIPTORS, affordable_connections
from devopsgpt_serving.http_protocol import MAX_BODY_PIECES, MAX_HEAD_BYTES

START = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
HEADERS = {
    "many small headers": b"a: b\r\n" * 1000,
    "many empty headers": b"a:\r\n" * 1000,
    "one header without end": b"a" * 10_000,
    "one value without end": b"a: " + b"b" * 10_000,
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_without_end_are_refused(bare, tried, what):
    before = memory()
    with ExitStack() as stack:
        attackers = [stack.enter_context(connected(bare, START)) for _ in range(20)]
        sent = sum(send_until_closed(each, HEADERS[what], 10_000_000) for each in attackers)
        waited = health_s(bare)
    grown = memory() - before
    tried(
        f"20 connections with {what}",
        f"closed after {sent:,} bytes; memory +{grown / 1e6:.0f} MB; healthz {waited:.3f} s",
    )
    assert grown < 100e6
    assert waited < 5


def test_headers_at_the_limit_pass_and_above_are_431(bare, tried):
    def ask(size):
        head = b"GET /api/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: "
        with connected(bare, head + b"y" * (size - len(head) - 4) + b"\r\n\r\n") as opened:
            return everything(opened)

    assert ask(MAX_HEAD_BYTES - 1000).startswith(b"HTTP/1.1 200 ")
    assert refusal(ask(MAX_HEAD_BYTES + 20_000)) == (431, "headers_too_large")
    tried(f"headers above {MAX_HEAD_BYTES:,} bytes", "431 headers_too_large")


def test_http_1_0_gets_no_chunks(bare, tried):
    with connected(bare, b"GET /docs HTTP/1.0\r\nHost: x\r\n\r\n") as opened:
        head, _, body = everything(opened).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body.lstrip().startswith(b"<!")
    with connected(bare, b"GET /metrics HTTP/1.0\r\n\r\n") as opened:
        assert b"200" in everything(opened).partition(b"\r\n")[0]
    tried("HTTP/1.0", "answered whole, without chunks")


def test_a_body_in_a_million_pieces_is_413(bare, tried):
    begin = START + b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    with connected(bare, begin) as opened:
        sent = send_until_closed(opened, b"1\r\n{\r\n" * 1000, 6_000_000)
        waited = health_s(bare)
    assert sent < 6_000_000
    assert waited < 5
    with connected(bare, begin, b"1\r\n{\r\n" * (MAX_BODY_PIECES + 1)) as opened:
        assert refusal(everything(opened)) == (413, "body_too_fragmented")
    tried("a body in chunks of one byte", f"413 after {MAX_BODY_PIECES} chunks")


@pytest.fixture(scope="module")
def hurried(tmp_path_factory):
    """A service of few connections, whose requests must arrive within a second."""
    place = tmp_path_factory.mktemp("hurried")
    limits = dict(receive_s=1.0, max_connections=40, poll_interval_s=60)
    with serving(place, tracking_uri="http://127.0.0.1:9", **limits) as running:
        yield running


HALVES = {
    "nothing": b"",
    "one byte": b"G",
    "half of the headers": START,
    "half of a body": START + b"Content-Length: 1000\r\nContent-Type: application/json\r\n\r\n{",
    "an unwanted body": b"GET /api/healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
    "a whole request and half of one": b"GET /api/healthz HTTP/1.1\r\nHost: x\r\n\r\n" + START,
}


@pytest.mark.parametrize("what", HALVES)
def test_a_request_that_does_not_arrive_is_given_up(hurried, tried, what):
    began = time.monotonic()
    with connected(hurried, HALVES[what]) as opened:
        answer = everything(opened)
    took = time.monotonic() - began
    assert took < 20
    assert (b'"code": "request_timeout"' in answer) == (what != "nothing")
    tried(f"{what}, then silence", f"closed after {took:.1f} s (limit 1 s)")


def test_a_request_that_drips_is_given_up(hurried, tried):
    with connected(hurried, START) as opened:
        began = time.monotonic()
        while time.monotonic() < began + 20:
            try:
                opened.sendall(b"a: b\r\n")
                time.sleep(0.1)
            except ConnectionError:
                break
    took = time.monotonic() - began
    assert took < 20
    tried("a header each 0.1 s", f"closed after {took:.1f} s (limit 1 s)")


def test_a_connection_is_kept_between_requests_longer_than_one_may_take(hurried, tried):
    with httpx.Client(base_url=hurried.url) as client:
        assert client.get("/api/healthz").status_code == 200
        time.sleep(2)
        ask = b"GET /api/healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        with connected(hurried, ask) as opened:
            assert opened.recv(65536).startswith(b"HTTP/1.1 200 ")
            time.sleep(2)  # twice the limit on a request
            opened.sendall(ask)
            assert opened.recv(65536).startswith(b"HTTP/1.1 200 ")
    tried("an idle connection that asks again after 2 s", "answered: keep-alive holds")


def closed_early(service, reason):
    return service.metric("closed_connections_total", reason=reason) or 0


@pytest.mark.parametrize("said", [b"", b"G"], ids=["silent", "one byte"])
def test_idle_connections_lock_nobody_out(hurried, tried, said):
    with ExitStack() as stack:
        for _ in range(200):  # five times as many as may be open
            stack.enter_context(connected(hurried, said))
        waited = health_s(hurried)
    assert waited < 10
    assert closed_early(hurried, "made room") > 0
    tried(
        "200 idle connections where 40 may be open", f"healthz in {waited * 1000:.0f} ms, counted"
    )


def test_where_every_connection_is_busy_a_new_one_is_told(common_shelf, tmp_path, tried):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name)
    with serving(tmp_path, **where, max_connections=3, max_batch_size=4) as service:
        service.wait_for("1")
        service.http.close()
        body = {"model": common_shelf.name, "prompt": "x", "max_tokens": 2000, "stream": True}
        with ExitStack() as stack:
            for _ in range(3):
                stream = httpx.stream("POST", f"{service.url}/v1/completions", json=body)
                answer = stack.enter_context(stream)
                assert answer.status_code == 200
            with connected(service) as opened:
                answer = everything(opened)
        assert refusal(answer) == (503, "too_many_connections")
        assert b"retry-after:" in answer
        until(lambda: health_s(service) < 5)
    tried("a fourth connection where three are answered", "503 too_many_connections")


def test_the_limit_on_descriptors_bounds_connections():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert affordable_connections(600) == 600
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 600 + SPARE_DESCRIPTORS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
