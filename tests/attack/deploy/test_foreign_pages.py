"""Web pages that try to start a run on the Dagster of the user who visits them: a real Chromium,
and `devopsgpt up`'s Dagster beside one without the guard, on which the same pages succeed."""

import json
import threading
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import httpx
import pytest
from serving.api.test_playground import CALM, CHROMIUM

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local import servers

LOCATION = "devopsgpt_pipeline.definitions"
LAUNCH = f"""mutation {{ launchRun(executionParams: {{ selector: {{
  repositoryLocationName: "{LOCATION}", repositoryName: "__repository__", jobName: "observe_books"
}}, runConfigData: "{{}}" }}) {{ __typename }} }}"""
RUNS = "{ runsOrError { ... on Runs { results { runId } } } }"
# what a foreign page may do without asking; each takes an address that holds a mutation
FORM = """address => { document.body.innerHTML = '<form method=post enctype=text/plain></form>';
  document.forms[0].action = address; document.forms[0].submit() }"""
FETCH = "address => fetch(address, {method: 'POST', mode: 'no-cors', body: 'x'})"
IMAGE = """address => new Promise(done => {
  const image = new Image(); image.onerror = image.onload = done; image.src = address })"""
FRAME = """address => new Promise(done => { const frame = document.createElement('iframe');
  frame.onload = done; frame.src = address; document.body.append(frame) })"""
SOCKET = """address => new Promise(done => {
  const socket = new WebSocket(address.replace('http', 'ws'), 'graphql-ws');
  socket.onopen = () => done('open'); socket.onerror = () => done('refused') })"""


class ForeignPage(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>kittens</title><body>")

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def elsewhere():
    """The port of a foreign site."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def dagster_over(home):
    """Dagster over a home of its own, as `up` starts it."""
    servers.set_environment(home.prepare(), "http://127.0.0.1:9", "http://127.0.0.1:9")
    own = {"DEVOPSGPT_HOME": str(home.path), "DAGSTER_HOME": str(home.dagster)}
    return replace(servers.dagster_server(home, servers.free_port()), environment=own)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    server = dagster_over(Home(tmp_path_factory.mktemp("guarded")))
    with servers.running([server]):
        yield server.url


@pytest.fixture(scope="module")
def dagsters(guarded, tmp_path_factory):
    """Addresses of two Dagsters: `guarded`, and `bare` as Dagster itself would start."""
    server = dagster_over(Home(tmp_path_factory.mktemp("bare")))
    words = list(server.command)
    words[words.index("devopsgpt_pipeline.local.dagster_dev")] = "dagster"
    words.insert(words.index("dagster") + 1, "dev")
    with servers.running([replace(server, command=words)]):
        yield {"guarded": guarded, "bare": server.url}


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian's package chromium has one")
    from playwright.sync_api import sync_playwright

    # every name under .test is this machine: a foreign name, and one that was bound anew to us
    names = "--host-resolver-rules=MAP *.test 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*CALM, names])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page()
    page.statuses = []
    page.on("response", lambda answer: page.statuses.append((answer.url, answer.status)))
    yield page
    page.close()


def runs(dagster):
    answer = httpx.post(f"{dagster}/graphql", json={"query": RUNS}, timeout=60).json()
    return len(answer["data"]["runsOrError"]["results"])


def mutation(dagster):
    return f"{dagster}/graphql?query={quote(LAUNCH)}"


@pytest.mark.slow  # a second Dagster
@pytest.mark.parametrize("host", ["evil.test", "127.0.0.1"])
@pytest.mark.parametrize("way", [FORM, FETCH, IMAGE], ids=["form", "fetch", "image"])
def test_a_foreign_page_starts_no_run(dagsters, elsewhere, page, tried, way, host):
    for name, dagster in dagsters.items():
        before, address = runs(dagster), mutation(dagster)
        page.goto(f"http://{host}:{elsewhere}/")
        with page.expect_navigation() if way == FORM else nullcontext():
            page.evaluate(way, address)
        started = runs(dagster) - before
        tried(f"a page at {host} sends a mutation to the {name} Dagster", f"{started} runs")
        assert started == {"guarded": 0, "bare": 1}[name]


@pytest.mark.slow  # a second Dagster
def test_a_name_that_was_bound_to_this_machine_starts_no_run(dagsters, page, tried):
    launch = """query => fetch('/graphql', {method: 'POST', body: JSON.stringify({query}),
      headers: {'Content-Type': 'application/json'}}).then(answer => answer.status)"""
    for name, dagster in dagsters.items():
        before = runs(dagster)
        page.goto(dagster.replace("127.0.0.1", "rebound.test") + "/server_info")
        status = page.evaluate(launch, LAUNCH)
        started = runs(dagster) - before
        tried(f"a name bound anew to the {name} Dagster sends a mutation", f"{started} runs")
        assert (started, status) == {"guarded": (0, 403), "bare": (1, 200)}[name]


@pytest.mark.slow  # a second Dagster
def test_a_foreign_page_opens_no_websocket_and_no_frame(dagsters, elsewhere, page, tried):
    for name, dagster in dagsters.items():
        page.goto(f"http://evil.test:{elsewhere}/")
        socket = page.evaluate(SOCKET, f"{dagster}/graphql")
        page.evaluate(FRAME, f"{dagster}/server_info")
        framed = dict(page.statuses)[f"{dagster}/server_info"]
        tried(f"a foreign page opens a websocket to the {name} Dagster", socket)
        expected = {"guarded": ("refused", 403), "bare": ("open", 200)}[name]
        assert (socket, framed) == expected


def test_a_link_of_a_foreign_page_opens_dagster(guarded, elsewhere, page):
    page.goto(f"http://evil.test:{elsewhere}/")
    with page.expect_navigation() as answer:
        page.evaluate("address => { location = address }", f"{guarded}/server_info")
    assert answer.value.status == 200


def test_dagsters_own_pages_start_a_run_and_are_told_about_it(guarded, page):
    frames = []
    page.on("websocket", lambda opened: opened.on("framereceived", lambda f: frames.append(f)))
    before = runs(guarded)
    page.goto(f"{guarded}/locations/{LOCATION}/jobs/observe_books")
    page.get_by_role("button", name="Observe all").click(timeout=60_000)
    page.get_by_text("Launched run").first.wait_for(timeout=60_000)
    assert runs(guarded) == before + 1
    assert "connection_ack" in [json.loads(frame)["type"] for frame in frames]
    assert [(url, status) for url, status in page.statuses if status >= 400] == []


def test_a_query_in_the_address_is_refused_from_anybody(guarded):
    address = f"{guarded}/graphql"
    query = {"query": "mutation { setNuxSeen }"}
    assert httpx.get(address, params=query, timeout=60).status_code == 403
    page = httpx.get(address, params=query, headers={"Accept": "text/html"}, timeout=60)
    assert page.status_code == 200
    assert "setNuxSeen" not in page.text
