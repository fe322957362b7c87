"""Whatever a server answers is a page, or a FetchError of that page alone."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pipeline.conftest import QUICK
from pipeline.sources.book_site import page, redirect, status

from attack.pipeline.raw_site import raw_site
from devopsgpt_pipeline.sources.books import BookError, load_book
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.sources.web.answers import FetchError, FetchRefused
from devopsgpt_pipeline.sources.web.fetch import Fetcher, NotModified, Page
from devopsgpt_pipeline.sources.web.politeness import RobotsRules

SOUND = b"<p>a page</p>"
YEAR = "Fri, 31 Dec 1" + "0" * 20 + " 23:59:59 GMT"


def cleaned(value: bytes) -> bytes:
    """A header's value on one line."""
    return value.replace(b"\r", b" ").replace(b"\n", b" ")


TARGETS = ["http://127.0.0.1:99999/", "http://[::1", "//", "http://", "http://a..b/", "\0", "http:"]
CHARSETS = [
    "undefined",
    "utf-8\0",
    "\0",
    "punycode",
    "idna",
    "unicode_escape",
    "rot13",
    "zlib",
    "x",
]
WAITS = [YEAR, "9" * 400, "-1", "1e999", "Fri, 31 Dec 0001 23:59:59 +9999", "Mon, 01 Jan 1 0:0:0"]
VALUES = st.one_of(
    st.sampled_from([*TARGETS, *WAITS]).map(str.encode),
    st.sampled_from(CHARSETS).map(lambda name: b"text/html; charset=" + name.encode()),
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    st.integers().map(lambda number: b"%d" % number),
).map(cleaned)
HEADERS = [
    *("Location", "Retry-After", "Content-Type", "Content-Length", "Content-Encoding", "ETag"),
    *("Transfer-Encoding", "Last-Modified", "Set-Cookie", "Connection", "Link", "Date", "X"),
]
STATUSES = [b"200 OK", b"301 Moved", b"302 Found", b"304 Not Modified", b"429 Slow", b"503 Down"]


def got(fetcher, url, **conditions):
    """A page, or the sentence of a FetchError; another exception fails the test."""
    try:
        answer = fetcher.get(url, **conditions)
    except FetchError as error:
        assert error.reason
        return error.reason
    assert isinstance(answer, Page | NotModified)
    return "a page"


@pytest.fixture(scope="module")
def site():
    with raw_site() as site:
        yield site


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@example(b"301 Moved", [("Location", b"http://127.0.0.1:99999/")], SOUND)
@example(b"301 Moved", [("Location", b"http://[::1")], SOUND)
@example(b"503 Down", [("Retry-After", YEAR.encode())], SOUND)
@example(b"200 OK", [("Content-Type", b"text/html; charset=undefined")], b"<p>caf\xe9</p>")
@example(b"200 OK", [("Content-Type", b"text/html; charset=utf\0")], b"<p>caf\xe9</p>")
@given(
    st.one_of(st.sampled_from(STATUSES), st.binary(max_size=20).map(cleaned)),
    st.lists(st.tuples(st.sampled_from(HEADERS), VALUES), max_size=4),
    st.one_of(st.just(SOUND), st.binary(max_size=100)),
)
def test_any_answer_is_a_page_or_a_fetch_error(site, code, headers, body):
    lines = [b"HTTP/1.1 " + code, *(name.encode() + b": " + value for name, value in headers)]
    site.answer = b"\r\n".join([*lines, b"", body])
    with Fetcher(QUICK_AND_ONCE) as fetcher:
        got(fetcher, site.url, etag='"x"')


QUICK_AND_ONCE = type(QUICK)(
    **{**vars(QUICK), "retries": 0, "read_timeout_s": 0.2, "page_timeout_s": 0.5}
)


@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_bytes_that_are_no_http_are_a_fetch_error(site, said):
    site.answer = said
    with Fetcher(QUICK_AND_ONCE) as fetcher:
        got(fetcher, site.url)


ODD = {
    "a redirect to port 99999": redirect("http://127.0.0.1:99999/"),
    "a redirect to http://[::1": redirect("http://[::1"),
    "a Retry-After in the year 10^20": status(503, Retry_After=YEAR),
    "a Retry-After of 400 digits": status(429, Retry_After="9" * 400),
    "charset=undefined": page(b"<p>caf\xe9</p>", "text/html; charset=undefined"),
    "a null byte in the charset": page(b"<p>caf\xe9</p>", "text/html; charset=utf\0"),
    "charset=punycode in the page": page(b"<meta charset=punycode><p>caf\xe9</p>", "text/html"),
    "two content lengths": status(200, Content_Length="5, 6"),
}


@pytest.mark.parametrize("what", ODD)
def test_an_odd_answer_is_the_failure_of_that_chapter_alone(what, book_site, book, archive, tried):
    book_site.fail("on-the-lamp", *[ODD[what]] * 5)
    with Fetcher(QUICK) as fetcher:
        report = scrape_book(book, fetcher, archive)
    (failed,) = report.failed
    assert failed.slug == "on-the-lamp"
    assert report.chapters == 5
    tried(what, f"one chapter failed: {failed.reason[:100]}")


@pytest.mark.parametrize("validator", ["a\r\n b", "x" * 5_000, "caf\xe9", " "])
def test_a_validator_that_cannot_be_sent_back_does_not_end_the_chapter(
    validator, book_site, book, archive
):
    """The next scrape asks without it, instead of failing for ever."""
    body = book_site.page("/local-book/on-the-lamp/")
    book_site.fail("on-the-lamp", page(body, ETag=validator))
    with Fetcher(QUICK) as fetcher:
        assert not scrape_book(book, fetcher, archive).failed
        assert not scrape_book(book, fetcher, archive).failed


@settings(deadline=None, max_examples=100)
@example(b"User-agent: *\nRequest-rate: 1/" + b"9" * 400)
@example(b"User-agent: *\nCrawl-delay: 1e999")
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"User-agent", b"Disallow", b"Request-rate", b"Crawl-delay", b"X"]),
            st.one_of(st.binary(max_size=30), st.sampled_from([b"*", b"/*a$", b"1/9h", b"nan"])),
        )
    ).map(lambda lines: b"\n".join(name + b": " + value for name, value in lines))
)
def test_any_robots_txt_has_an_answer(body):
    rules = RobotsRules(body, "DevopsGPT")
    assert rules.allows("https://example.org/a") in (True, False)
    assert rules.crawl_delay_s is None or rules.crawl_delay_s >= 0


def test_a_robots_txt_of_many_rules_for_many_agents_is_refused(book_site, tried):
    """5,000 of both took 42 s."""
    agents = "".join(f"User-agent: a{number}\n" for number in range(5_000))
    rules = "".join(f"Disallow: /{number}\n" for number in range(5_000))
    book_site.robots = agents + rules
    with Fetcher(QUICK) as fetcher, pytest.raises(FetchRefused) as caught:
        fetcher.get(book_site.url("on-the-lamp"))
    assert "lines times agents must be at most 1,000,000" in str(caught.value)
    tried("a robots.txt of 5,000 agents with 5,000 rules each", caught.value.reason)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:99999/", "http://a..b/", "\0"])
def test_an_address_that_is_none_is_a_fetch_error(url):
    with Fetcher(QUICK) as fetcher, pytest.raises(FetchError):
        fetcher.get(url)


TOML = """
name = "odd"
title = "{title}"
contents_url = "{url}"
licence = "MIT"
attribution = "a test"
[select]
links = "{links}"
content = ["main"]
[leave_out]
titles = ['{pattern}']
"""
GOOD = {"title": "Odd", "url": "https://example.org/", "links": "a", "pattern": "^x$"}
REFUSED = {
    "port 99999": {"url": "https://example.org:99999/"},
    "port -1": {"url": "https://example.org:-1/"},
    "http://[::1": {"url": "http://[::1"},
    "a host with an empty part": {"url": "https://a..b/"},
    "a host of 64 characters in one part": {"url": f"https://{'a' * 64}.org/"},
    "a null byte in the address": {"url": "https://example.org/\\u0000"},
    "a line break in the address": {"url": "https://example.org/\\nx"},
    "a null byte in the title": {"title": "a\\u0000b"},
    "an empty title": {"title": ""},
    "a title of spaces": {"title": " \\t"},
    "a null byte in a selector": {"links": "a\\u0000"},
    "look-around": {"pattern": "(?=x)"},
    "look-behind": {"pattern": "(?<!x)y"},
    "a back-reference": {"pattern": r"(a)\1"},
    "a repetition of 10,000": {"pattern": "a{10000}"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_toml_that_cannot_work_is_refused_when_it_is_read(what, tmp_path, tried):
    path = tmp_path / "odd.toml"
    path.write_text(TOML.format(**GOOD))
    assert load_book(path).title == "Odd"
    path.write_text(TOML.format(**{**GOOD, **REFUSED[what]}))
    with pytest.raises(BookError) as caught:
        load_book(path)
    said = str(caught.value).partition(": ")[2]
    assert len(said.splitlines()) == 1
    tried(f"a TOML with {what}", said)
