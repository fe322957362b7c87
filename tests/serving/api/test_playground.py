"""The playground and /docs in a real browser that reaches the service and nothing else."""

import re
import shutil
from contextlib import contextmanager

import pytest

from devopsgpt_serving.api.schemas import SamplingFields
from serving.api.test_limits import slow_down
from serving.conftest import serving, until

CALM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; Debian's package chromium has one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CALM))
        yield browser
        browser.close()


@contextmanager
def tab(browser, service, **look):
    """A tab that reaches the service and nothing else."""
    page = browser.new_page(**({"viewport": {"width": 390, "height": 844}} | look))
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
    page.on(
        "console",
        lambda message: page.complaints.append(message.text) if message.type == "error" else None,
    )
    page.goto(service.url)
    if keys := service.service.settings.accepted_keys():
        page.get_by_text("this service asks for an API key").wait_for()
        page.get_by_label("API key").fill("wrong")
        page.get_by_label("API key").blur()
        page.get_by_text("this API key is not accepted").wait_for()
        page.get_by_label("API key").fill(keys[0])
        page.get_by_label("API key").blur()
    page.get_by_text(f"{service.name}, version 1").wait_for()
    yield page
    page.close()
    assert page.elsewhere == []


@pytest.fixture
def page(browser, service):
    with tab(browser, service) as page:
        yield page


def test_the_playground_streams_an_answer(page, service):
    page.get_by_label("Prompt").fill("hello")
    page.get_by_label("Most tokens").fill("30")
    page.get_by_label("Seed (empty: any)").fill("9")
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("version 1: 30 tokens.*ended at a limit")).wait_for()
    asked = dict(max_tokens=30, seed=9, temperature=0.8, top_k=50)
    expected = "hello" + service.complete("hello", **asked).json()["choices"][0]["text"]
    assert page.locator("#answer").evaluate("node => node.textContent") == expected
    assert re.search(r"[\d.]+ tokens/s", page.locator("#facts").inner_text())
    page.get_by_text("Where version 1 comes from").click()
    page.get_by_text("val_loss").wait_for()
    assert page.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than a phone"


def test_each_setting_of_the_playground_is_sent(page, service):
    settings = {
        "Most tokens": ("max_tokens", 20),
        "Temperature": ("temperature", 1.2),
        "Top k (0: all)": ("top_k", 9),
        "Top p": ("top_p", 0.9),
        "Repetition penalty": ("repetition_penalty", 1.1),
        "Presence penalty": ("presence_penalty", -0.5),
        "Frequency penalty": ("frequency_penalty", 1.5),
        "Seed (empty: any)": ("seed", 7),
        "Stop text": ("stop", "never there"),
    }
    for label, (_, value) in settings.items():
        page.get_by_label(label).fill(str(value))
    with page.expect_request("**/v1/completions") as asked:
        page.get_by_role("button", name="Go on").click()
    page.get_by_text(re.compile("version 1: 20 tokens")).wait_for()
    chosen = dict(settings.values())
    body = asked.value.post_data_json
    assert {name: body[name] for name in chosen} == chosen
    assert set(SamplingFields.model_fields) <= set(chosen), "a setting that the page does not have"
    expected = (
        body["prompt"] + service.complete(body["prompt"], **chosen).json()["choices"][0]["text"]
    )
    assert page.locator("#answer").evaluate("node => node.textContent") == expected


def test_the_playground_tells_what_went_wrong(page, service):
    page.get_by_label("Prompt").fill("x" * 300)
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("alert").get_by_text("the prompt may have at most 127 tokens").wait_for()


@pytest.fixture
def slow_service(common_shelf, tmp_path):
    """A service that asks for a key and needs 5 s for 100 tokens."""
    where = dict(tracking_uri=common_shelf.url, model_name=common_shelf.name, api_keys="the-key")
    with serving(tmp_path, **where, poll_interval_s=60) as service:
        service.wait_for("1")
        slow_down(service, 0.05)
        yield service


@pytest.mark.parametrize("way", ["button", "key"])
def test_the_playground_stops_an_answer_and_the_engine_with_it(browser, slow_service, way):
    with tab(browser, slow_service) as page:
        stop = page.get_by_role("button", name="Stop")
        assert stop.is_disabled()
        page.get_by_label("Most tokens").fill("100")
        page.keyboard.press("Control+Enter")
        # a busy machine shows not each one
        page.get_by_text(re.compile(r"version 1: ([3-9]|\d\d) tokens")).wait_for()
        stop.click() if way == "button" else page.keyboard.press("Escape")
        page.get_by_text(
            re.compile(r"version 1: \d{1,2} tokens, [\d.]+ tokens/s, stopped")
        ).wait_for()
        assert stop.is_disabled()
        until(lambda: slow_service.service.engine.running == 0, seconds=1)
        assert page.complaints == []


def test_the_playground_tells_the_tags_of_the_version_that_answered(browser, shelf, tmp_path):
    def tags():
        """Which version the page names, and whose runs it tells."""
        told = page.locator("#tags").evaluate("node => node.textContent")
        which = page.locator("#which").evaluate("node => node.textContent")
        return which, [version for version in ("1", "2") if run_of(version) in told]

    def run_of(version):
        return shelf.client.get_model_version(shelf.name, version).run_id

    shelf.publish(seed=1)
    shelf.publish(seed=2, champion=False)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        slow_down(service, 0.05)
        with tab(browser, service) as page:
            page.get_by_label("Most tokens").fill("60")
            page.keyboard.press("Control+Enter")
            page.get_by_text(
                re.compile(r"version 1: ([3-9]|\d\d) tokens")
            ).wait_for()  # a busy machine shows not each one
            shelf.promote("2")
            service.wait_for("2")
            page.get_by_text(re.compile("version 1: 60 tokens.*ended at a limit")).wait_for()
            page.locator("#serving").get_by_text(f"{service.name}, version 2").wait_for()
            assert tags() == ("version 1", ["1"])
            page.keyboard.press("Control+Enter")
            page.get_by_text(re.compile("version 2: 60 tokens.*ended at a limit")).wait_for()
            assert tags() == ("version 2", ["2"])


def test_the_playground_asks_for_the_key(browser, slow_service):
    with tab(browser, slow_service) as page:
        page.get_by_label("API key").fill("")
        page.get_by_label("API key").blur()
        page.get_by_text("this service asks for an API key").wait_for()
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("alert").get_by_text("a valid key is needed").wait_for()


def test_the_playground_needs_no_mouse(page):
    def focused():
        return page.evaluate("document.activeElement.id || document.activeElement.tagName")

    assert focused() == "prompt"
    page.keyboard.type(" large")
    order = []
    while (now := focused()) != "go" and len(order) < 20:
        order.append(now)
        page.keyboard.press("Tab")
    penalties = ["repetition_penalty", "presence_penalty", "frequency_penalty"]
    assert order == [
        "prompt",
        "max_tokens",
        "temperature",
        "top_k",
        "top_p",
        *penalties,
        "seed",
        "stop",
        "key",
    ]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid", "where the keyboard is cannot be seen"
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"version 1: 104 tokens.*ended at a limit")).wait_for()
    page.keyboard.press("Tab")
    assert focused() == "answer"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.get_by_text("val_loss").wait_for()
    assert page.locator("#answer").inner_text().startswith("An error budget is large")


CONTRAST = """() => {
  const channels = color => color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const linear = c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = color => channels(color).map(c => linear(c / 255)).reduce(
    (sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = node => {
    const color = getComputedStyle(node).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" ? behind(node.parentElement) : color;
  };
  document.getElementById("error").textContent = "an error";
  const told = {};
  const texts = "h1, header p, label, textarea, input, button, kbd, #answer, #facts, #error";
  for (const node of document.querySelectorAll(texts)) {
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
    told[node.id || node.tagName] = (a + .05) / (b + .05);
  }
  return told;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_playground_is_readable(browser, service, scheme, width):
    with tab(
        browser, service, color_scheme=scheme, viewport={"width": width, "height": 800}
    ) as page:
        contrasts = page.evaluate(CONTRAST)
        assert len(contrasts) > 12
        assert min(contrasts.values()) >= 4.5, contrasts  # WCAG AA
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "wider than the screen"
        )
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
        assert dark == (scheme == "dark")
        heights = page.locator("button").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert min(heights) >= 44, "too small for a finger"


def test_the_docs_work_without_a_network(page, service):
    page.goto(f"{service.url}/docs")
    page.get_by_text("/api/generate").first.wait_for()
    page.get_by_text("/v1/completions").first.click()
    page.get_by_text("Go on from a prompt").first.wait_for(state="attached")
    assert page.complaints == []
