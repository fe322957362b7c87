"""The playground and /docs in a real browser without a network; metrics and logs."""

import json
import logging
import re
import shutil

import pytest

from devopsgpt_serving.logs import JsonLines
from serving.conftest import serving, until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian's package chromium has one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service):
    """A tab that reaches the service and nothing else, and must not complain."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(10_000)
    page.elsewhere, page.complaints = [], []

    def only_ours(route):
        if route.request.url.startswith((service.url, "data:", "blob:")):
            route.continue_()
        else:
            page.elsewhere.append(route.request.url)
            route.abort()

    page.route("**/*", only_ours)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    yield page
    page.close()
    assert page.elsewhere == []


def test_the_playground_streams_an_answer(page, service):
    page.goto(service.url)
    page.get_by_text(f"{service.name}, version 1").wait_for()
    page.get_by_label("Prompt").fill("hello")
    page.get_by_label("Most tokens").fill("30")
    page.get_by_label("Seed (empty: any)").fill("9")
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("version 1: 30 tokens.*ended at a limit")).wait_for()
    asked = dict(max_tokens=30, seed=9, temperature=0.8, top_k=50)
    expected = "hello" + service.complete("hello", **asked).json()["choices"][0]["text"]
    assert page.locator("#answer").evaluate("node => node.textContent") == expected
    assert re.search(r"[\d.]+ tokens/s", page.locator("#facts").inner_text())
    page.get_by_text("Where this model comes from").click()
    page.get_by_text("val_loss").wait_for()
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than a phone"


def test_the_playground_tells_what_went_wrong(page, service):
    page.goto(service.url)
    page.get_by_text("version 1").first.wait_for()
    page.get_by_label("Prompt").fill("x" * 300)
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("alert").get_by_text("the prompt may have at most 127 tokens").wait_for()


def test_the_playground_stops(page, service):
    page.goto(service.url)
    page.get_by_text("version 1").first.wait_for()
    page.get_by_label("Most tokens").fill("100")
    page.get_by_label("Prompt").fill("hello")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Escape")
    page.wait_for_function("document.getElementById('halt').disabled")
    assert page.get_by_role("button", name="Stop").is_disabled()


def test_the_docs_work_without_a_network(page, service):
    page.goto(f"{service.url}/docs")
    page.get_by_text("/api/generate").first.wait_for()
    page.get_by_text("/v1/completions").first.click()
    page.get_by_text("Go on from a prompt").first.wait_for(state="attached")
    assert page.complaints == []


def test_the_openapi_document_tells_every_error_in_one_form(service):
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/api/healthz", "/api/readyz", "/api/generate", "/admin/reload"),
        *("/v1/models", "/v1/models/{model}", "/v1/completions"),
    }
    assert "HTTPValidationError" not in json.dumps(document["paths"]["/v1/completions"])
    answers = document["paths"]["/v1/completions"]["post"]["responses"]
    assert {"400", "401", "404", "413", "422", "429", "500", "503", "504"} < set(answers)


def test_metrics_count_what_happened(service):
    def metric(name):
        return float(re.search(rf"^{re.escape(name)} (\S+)$", service.http.get("/metrics").text, re.MULTILINE)[1])

    before = metric("devopsgpt:generation_tokens_total")
    service.generate("hello", max_token_len=7)
    assert metric("devopsgpt:generation_tokens_total") == before + 7
    assert metric("devopsgpt:num_requests_running") == 0
    assert metric("devopsgpt:registry_up") == 1
    assert metric(f'devopsgpt:model_info{{model="{service.name}",version="1"}}') == 1
    assert metric("devopsgpt:time_to_first_token_seconds_count") > 0
    assert metric("devopsgpt:inter_token_latency_seconds_count") > 0
    rejected = 'devopsgpt:rejections_total{code="empty_prompt"}'
    service.generate("")
    assert metric(rejected) >= 1


def mine(caplog, request_id):
    return [record for record in caplog.records if getattr(record, "request_id", "") == request_id]


def test_logs_tell_the_request_and_not_the_prompt(service, caplog):
    with caplog.at_level(logging.INFO, "devopsgpt_serving"):
        service.http.post("/api/generate", json={"prompt": "a secret"}, headers={"X-Request-ID": "me-1"})
        until(lambda: mine(caplog, "me-1"))
    (record,) = mine(caplog, "me-1")
    line = json.loads(JsonLines().format(record))
    assert (line["path"], line["status"], line["version"]) == ("/api/generate", 200, "1")
    assert "secret" not in caplog.text + json.dumps(line)


def test_prompts_are_logged_when_the_operator_asks(common_shelf, tmp_path, caplog):
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, log_prompts=True)
    with serving(tmp_path, **where) as service, caplog.at_level(logging.INFO, "devopsgpt_serving"):
        service.wait_for("1")
        service.generate("asked by me")
        service.complete("asked by you")
    told = [record.prompt for record in caplog.records if hasattr(record, "prompt")]
    assert told == ["asked by me", ["asked by you"]]
