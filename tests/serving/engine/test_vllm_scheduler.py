"""The engine setting `vllm`: our routes and the alias watch before a server that speaks vLLM's
protocol."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from conftest import REPOSITORY

from devopsgpt_serving.engine import vllm_scheduler
from devopsgpt_serving.engine.vllm_client import WATCH_EVERY_S
from serving.conftest import make_model, serving, until
from serving.engine.vllm_server import VllmServer, chunk

QUESTION = dict(max_tokens=12, temperature=0)


@pytest.fixture
def vllm(tmp_path):
    (tmp_path / "cache").mkdir()
    server = VllmServer(tmp_path / "cache")
    yield server
    server.close()


def before_vllm(shelf, vllm, tmp_path, vllm_start_s=2):
    """A service that leaves computing to this vLLM. vllm_start_s: short where a version is to be
    refused"""
    where = dict(
        tracking_uri=shelf.url, model_name=shelf.name, vllm_url=vllm.url, vllm_api_key="key"
    )
    return serving(tmp_path, engine="vllm", max_batch_size=4, vllm_start_s=vllm_start_s, **where)


@pytest.fixture
def front(shelf, vllm, tmp_path):
    shelf.publish(make_model(1))
    with before_vllm(shelf, vllm, tmp_path) as running:
        running.wait_for("1")
        yield running


def told(answer):
    """What an answer says, without its id and its time."""
    content = answer.json()
    assert answer.status_code == 200, content
    return content["choices"], content["usage"]


@pytest.fixture(scope="module")
def quiet_front(common_shelf, tmp_path_factory):
    """A front that no test disturbs; its model is that of the fixture `service`."""
    place = tmp_path_factory.mktemp("front")
    (place / "cache").mkdir()
    server = VllmServer(place / "cache")
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, max_batch_size=4)
    with serving(place, engine="vllm", vllm_url=server.url, **where) as running:
        running.wait_for("1")
        yield running
    server.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logprobs": 3},
        {"echo": True, "logprobs": 2},
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        {"stop": "\x00"},
        {"prompt": ["one", "two"], "n": 2},
    ],
    ids=["plain", "scored", "echoed", "scores only", "stop string", "many"],
)
def test_it_answers_as_our_own_engine_does(quiet_front, service, fields):
    asked = {"prompt": "The pager"} | QUESTION | fields
    ours = service.complete(**asked)
    choices, usage = told(quiet_front.complete(**asked))
    assert usage == told(ours)[1]
    for mine, other in zip(choices, told(ours)[0], strict=True):
        assert mine["text"] == other["text"]
        assert mine["finish_reason"] == other["finish_reason"]
        if "logprobs" in fields:
            assert mine["logprobs"]["tokens"] == other["logprobs"]["tokens"]
            scores = zip(
                mine["logprobs"]["token_logprobs"], other["logprobs"]["token_logprobs"], strict=True
            )
            assert all(a == b or abs(a - b) < 1e-4 for a, b in scores)
            assert [set(top or {}) for top in mine["logprobs"]["top_logprobs"]] == [
                set(top or {}) for top in other["logprobs"]["top_logprobs"]
            ]


def test_it_streams_and_passes_its_key_on(front, vllm):
    body = {"model": front.name, "prompt": "x", "stream": True} | QUESTION
    with front.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert len(lines) > 3
    assert lines[-1] == "data: [DONE]"
    assert vllm.keys == {"Bearer key"}
    assert vllm.bodies[-1]["prompt"] == [ord("x")]


def test_it_follows_the_alias(front, shelf, vllm):
    before = told(front.complete("The pager", logprobs=0, **QUESTION))
    shelf.publish(make_model(2))
    front.wait_for("2")
    assert vllm.served() == [front.service.follower.state.served.key]
    after = front.complete("The pager", logprobs=0, **QUESTION)
    assert after.headers["X-Model-Version"] == "2"
    assert told(after) != before


def only(names, vllm):
    """Have vLLM list these names alone, whatever the link says. returns: what it would list"""
    honest = vllm.served
    vllm.served = lambda: [name for name in honest() if name in names]
    return honest


def failed(front):
    return front.service.follower.state.failed_reloads


def test_a_version_that_vllm_does_not_load_is_refused_and_the_link_goes_back(front, shelf, vllm):
    served = vllm.served()
    honest = only(served, vllm)
    shelf.publish(make_model(2))
    until(lambda: failed(front), 20)
    assert front.ready()["version"] == "1"
    assert "vLLM does not serve 2-" in front.ready()["problem"]
    assert front.generate("x", max_token_len=3).status_code == 200
    time.sleep(0.5)  # five looks at the registry: none of them takes vLLM from what it serves
    assert (honest(), failed(front)) == (served, 1)
    vllm.served = honest
    front.http.post("/admin/reload")
    front.wait_for("2")


@pytest.mark.parametrize("broken", ["status", "scores"])
def test_a_version_that_vllm_lists_and_cannot_compute_is_refused(
    front, shelf, vllm, monkeypatch, broken
):
    monkeypatch.setattr(
        vllm, *{"status": ("status", 500), "scores": ("events", no_numbers)}[broken]
    )
    shelf.publish(make_model(2))
    until(lambda: failed(front), 20)
    assert front.ready()["version"] == "1"
    assert "generates nothing at vLLM" in front.ready()["problem"]
    assert vllm.served()[0].startswith("1-")  # the link went back
    monkeypatch.undo()
    assert front.generate("x", max_token_len=3).status_code == 200


def no_numbers(body):
    yield chunk([(65, float("nan"), {})], None)


def test_a_start_that_falls_back_leaves_vllm_with_what_it_fell_back_to(shelf, vllm, tmp_path):
    shelf.publish(make_model(1))
    with before_vllm(shelf, vllm, tmp_path) as running:
        running.wait_for("1")
    served = vllm.served()
    honest = only(served, vllm)
    shelf.publish(make_model(2))
    # the first start has to fetch version 2 and falls back before, the second after vLLM refused it
    for _ in range(2):
        with before_vllm(shelf, vllm, tmp_path) as running:
            until(lambda running=running: failed(running), 20)
            running.wait_for("1")
            time.sleep(0.5)
            assert (honest(), failed(running)) == (served, 1)


def test_a_first_version_is_waited_for_however_long_vllm_takes(shelf, vllm, tmp_path):
    started = []
    only(started, vllm)
    shelf.publish(make_model(1))
    with before_vllm(shelf, vllm, tmp_path, vllm_start_s=0.1) as running:
        until(lambda: failed(running) > 1, 20)
        started += [path.name for path in (tmp_path / "cache").glob("1-*")]
        running.wait_for("1")


def test_it_is_not_ready_while_vllm_starts_with_a_version(shelf, vllm, tmp_path):
    shelf.publish(make_model(1))
    with before_vllm(shelf, vllm, tmp_path, vllm_start_s=60) as running:
        running.wait_for("1")
        started = vllm.served()
        honest = only(started, vllm)
        assert running.http.get("/api/readyz").status_code == 200
        shelf.publish(make_model(2))
        until(lambda: honest() != started)
        until(lambda: running.http.get("/api/readyz").status_code == 503)
        assert f"vLLM serves nothing, not {started[0]}" in running.ready()["problem"]
        assert running.http.get("/api/healthz").status_code == 200
        started += honest()
        running.wait_for("2")
        assert running.http.get("/api/readyz").status_code == 200


def test_it_is_not_ready_while_vllm_is_down_but_silence_under_load_is_no_absence(front, vllm):
    honest = vllm.served
    vllm.served = lambda: time.sleep(3) or honest()
    time.sleep(WATCH_EVERY_S)  # or what was known is told without a look
    assert front.http.get("/api/readyz").status_code == 200
    vllm.close()
    until(lambda: front.http.get("/api/readyz").status_code == 503)
    assert "does not answer" in front.ready()["problem"]


def test_a_caller_that_hangs_up_ends_the_work_at_vllm(front, vllm):
    vllm.delay_s = 0.05
    body = {"model": front.name, "prompt": "x", "stream": True, "max_tokens": 100, "temperature": 0}
    with front.http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    until(lambda: vllm.hung_up == 1, 10)
    until(lambda: front.service.engine.running == 0, 5)


@pytest.mark.parametrize("how", ["refuses", "fails", "breaks off"])
def test_vllm_in_trouble_is_a_503_and_nothing_is_left_over(front, vllm, how):
    if how == "refuses":
        vllm.close()
    elif how == "fails":
        vllm.status = 500
    else:
        vllm.cut_after = 2
    answer = front.generate("x", max_token_len=8)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "vLLM" in answer.json()["error"]["message"]
    until(lambda: front.service.engine.running == front.service.engine.waiting == 0)
    if how != "refuses":
        vllm.status, vllm.cut_after = 200, None
        assert front.generate("x", max_token_len=8).status_code == 200


def test_a_call_that_cannot_start_fails_its_sequences_and_keeps_none(front, monkeypatch):
    def no_more_threads(*_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(vllm_scheduler, "Call", no_more_threads)
        answer = front.complete(["one", "two", "three"], **QUESTION)
        assert answer.status_code == 500
    until(lambda: front.service.engine.running == front.service.engine.waiting == 0)
    assert front.complete("x", **QUESTION).status_code == 200


STANDIN = """
import http.server, json, sys
option = lambda name: sys.argv[sys.argv.index(name) + 1]
name, port = option("--served-model-name"), int(option("--port"))
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name, "root": sys.argv[2]}]}).encode())
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def listed(url):
    try:
        return [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
    except httpx.TransportError:
        return []


def test_the_script_beside_vllm_follows_the_link_and_starts_it_again_when_it_dies(tmp_path):
    from devopsgpt_model.atomic import replace_symlink
    from devopsgpt_pipeline.local.servers import free_port

    program = tmp_path / "vllm-standin"
    program.write_text(f"#!{sys.executable}\n{STANDIN}")
    program.chmod(0o755)
    port = free_port()
    settings = {
        "VLLM_LINK": str(tmp_path / "vllm"),
        "VLLM_PORT": str(port),
        "VLLM_COMMAND": str(program),
    }
    follower = subprocess.Popen(
        ["bash", REPOSITORY / "deploy/vllm/follow.sh"],
        env=os.environ | settings,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for key in ("1-abc", "2-def"):
            replace_symlink(tmp_path / "vllm", f"{key}/model")
            until(lambda key=key: listed(f"http://127.0.0.1:{port}") == [key], 15)
        child = subprocess.run(
            ["pgrep", "-P", str(follower.pid), "-f", "vllm-standin"], capture_output=True, text=True
        )
        os.kill(int(child.stdout), signal.SIGKILL)
        until(lambda: not listed(f"http://127.0.0.1:{port}"), 5)
        until(lambda: listed(f"http://127.0.0.1:{port}") == ["2-def"], 15)
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(10) == 0
        assert listed(f"http://127.0.0.1:{port}") == []
    finally:
        os.killpg(follower.pid, signal.SIGKILL) if follower.poll() is None else None
