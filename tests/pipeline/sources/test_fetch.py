"""The fetcher against a real server: its manners, and every fault that a server can send."""

import pickle
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest

from devopsgpt_pipeline.sources.web.answers import FetchFailed, FetchRefused
from devopsgpt_pipeline.sources.web.fetch import Fetcher, FetchSettings, NotModified
from pipeline.conftest import QUICK
from pipeline.sources.book_site import (
    always,
    content_length,
    drip,
    gzip_bomb,
    gzipped,
    hang,
    page,
    redirect,
    reset,
    status,
)

SLUG = "on-the-lamp"


def test_a_page_comes_as_served(book_site, fetcher):
    got = fetcher.get(book_site.url(SLUG))
    assert got.body == book_site.page(f"/local-book/{SLUG}/")
    assert got.charset == "utf-8"
    assert got.etag
    assert got.last_modified


def test_the_user_agent_names_us_and_a_contact(book_site, fetcher):
    fetcher.get(book_site.url(SLUG))
    assert book_site.asked(SLUG)[0].headers["User-Agent"] == "DevopsGPT/0.1 (+tests@example.org)"


def test_nothing_of_the_machine_is_sent(book_site, fetcher, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    book_site.fail(SLUG, page(b"<p>x</p>", Set_Cookie="visit=1"))
    fetcher.get(book_site.url(SLUG))
    fetcher.get(book_site.url(SLUG))
    for request in book_site.log:
        assert "Authorization" not in request.headers
        assert "Cookie" not in request.headers


def test_a_conditional_request_for_the_same_page_downloads_nothing(book_site, fetcher):
    got = fetcher.get(book_site.url(SLUG))
    read = fetcher.body_bytes
    assert fetcher.get(book_site.url(SLUG), got.etag, got.last_modified) == NotModified(
        book_site.url(SLUG)
    )
    assert fetcher.body_bytes == read
    assert book_site.statuses() == [200, 304]


def test_not_modified_without_having_asked_is_a_failure(book_site, fetcher):
    book_site.fail(SLUG, status(304))
    with pytest.raises(FetchFailed, match="304"):
        fetcher.get(book_site.url(SLUG))


def test_requests_wait_for_each_other(book_site):
    with Fetcher(replace(QUICK, delay_s=0.15)) as fetcher:
        for slug in ("on-the-lamp", "on-the-tide", "on-the-ferry"):
            fetcher.get(book_site.url(slug))
    times = [request.at for request in book_site.log]
    assert len(times) == 4  # robots.txt first
    assert min(b - a for a, b in pairwise(times)) >= 0.15


def test_a_crawl_delay_counts_instead_of_ours(book_site):
    book_site.robots = "User-agent: *\nCrawl-delay: 0.2\n"
    with Fetcher(QUICK) as fetcher:
        assert fetcher.delay_for(book_site.contents_url) == 0.2
        assert fetcher.delay_for(book_site.contents_url, 0.5) == 0.5
        assert fetcher.delay_for(book_site.contents_url, 0.1) == 0.2
        fetcher.get(book_site.url(SLUG))
        fetcher.get(book_site.url(SLUG))
    times = [request.at for request in book_site.log]
    assert min(b - a for a, b in pairwise(times)) >= 0.2


def test_a_crawl_delay_beyond_the_limit_is_refused(book_site, fetcher):
    book_site.robots = "User-agent: *\nCrawl-delay: 86400\n"
    with pytest.raises(FetchRefused, match="86400 s between requests, the limit is 60 s"):
        fetcher.get(book_site.url(SLUG))


def test_fetchers_that_share_a_folder_take_turns(book_site, tmp_path):
    settings = replace(QUICK, delay_s=0.2)
    with Fetcher(settings, tmp_path / "pace") as one, Fetcher(settings, tmp_path / "pace") as two:
        one.get(book_site.url(SLUG))
        two.get(book_site.url(SLUG))
    times = [request.at for request in book_site.log]
    assert min(b - a for a, b in pairwise(times)) >= 0.2


def test_robots_txt_that_forbids_is_honoured(book_site, fetcher):
    with pytest.raises(FetchRefused, match=r"robots\.txt forbids"):
        fetcher.get(book_site.url("secret"))
    assert book_site.statuses() == []


def test_robots_txt_may_forbid_us_by_name(book_site, fetcher):
    book_site.robots = "User-agent: *\nAllow: /\n\nUser-agent: devopsgpt\nDisallow: /\n"
    with pytest.raises(FetchRefused, match=r"robots\.txt forbids"):
        fetcher.get(book_site.url(SLUG))


def test_an_error_keeps_its_address_reason_and_status_across_processes():
    error = pickle.loads(pickle.dumps(FetchFailed("https://a.b/", "status 500", 500)))
    assert str(error) == "https://a.b/: status 500"
    assert (error.url, error.reason, error.status) == ("https://a.b/", "status 500", 500)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_robots_txt_that_is_not_there_allows(book_site, fetcher, code):
    book_site.faults["/robots.txt"] = [always(status(code))]
    assert fetcher.get(book_site.url(SLUG)).body


@pytest.mark.parametrize("code", [429, 500, 503])
def test_robots_txt_that_fails_means_hands_off(book_site, fetcher, code):
    book_site.faults["/robots.txt"] = [always(status(code))]
    with pytest.raises(FetchRefused, match=r"robots\.txt cannot be read \(status"):
        fetcher.get(book_site.url(SLUG))
    assert book_site.statuses() == []


def test_a_server_that_is_down_is_a_clear_failure(fetcher):
    with pytest.raises(FetchRefused, match=r"robots\.txt cannot be read \(the connection failed"):
        fetcher.get("http://127.0.0.1:9/book/")


def test_only_https_is_fetched_by_default(book_site):
    with Fetcher(FetchSettings()) as fetcher, pytest.raises(FetchRefused, match="only https"):
        fetcher.get(book_site.url(SLUG))
    assert book_site.log == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http:///x", "x", ""])
def test_addresses_that_are_no_web_pages_are_refused(fetcher, url):
    with pytest.raises(FetchRefused):
        fetcher.get(url)


def test_a_redirect_on_the_same_host_is_followed(book_site, fetcher):
    book_site.fail(SLUG, redirect("/local-book/on-the-tide/", 302))
    got = fetcher.get(book_site.url(SLUG))
    assert got.url == book_site.url("on-the-tide")


def test_a_redirect_to_another_host_is_refused(book_site, other_site, fetcher):
    book_site.fail(SLUG, redirect(other_site.url(SLUG)))
    with pytest.raises(FetchRefused, match=r"redirected to http://127\.0\.0\.1:"):
        fetcher.get(book_site.url(SLUG))
    assert other_site.log == []


def test_a_redirect_to_a_forbidden_page_is_refused(book_site, fetcher):
    book_site.fail(SLUG, redirect("/local-book/secret/"))
    with pytest.raises(FetchRefused, match=r"robots\.txt forbids"):
        fetcher.get(book_site.url(SLUG))


def test_a_redirect_loop_ends(book_site, fetcher):
    book_site.fail(SLUG, always(redirect(f"/local-book/{SLUG}/")))
    with pytest.raises(FetchFailed, match="more than 5 redirects"):
        fetcher.get(book_site.url(SLUG))


@pytest.mark.parametrize("code", [403, 404, 410, 500, 502])
def test_an_error_status_fails_at_once(book_site, fetcher, code):
    book_site.fail(SLUG, status(code))
    with pytest.raises(FetchFailed, match=f"status {code}") as caught:
        fetcher.get(book_site.url(SLUG))
    assert caught.value.status == code
    assert len(book_site.asked(SLUG)) == 1


def test_after_500_the_next_visit_gets_the_page(book_site, fetcher):
    book_site.fail(SLUG, status(500))
    with pytest.raises(FetchFailed):
        fetcher.get(book_site.url(SLUG))
    assert fetcher.get(book_site.url(SLUG)).body


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_honoured(book_site, fetcher, code):
    book_site.fail(SLUG, status(code, Retry_After="1"))
    assert fetcher.get(book_site.url(SLUG)).body
    first, second = book_site.asked(SLUG)
    assert second.at - first.at >= 1.0


def test_retry_after_may_be_a_date(book_site, fetcher):
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    book_site.fail(SLUG, status(503, Retry_After=when))
    assert fetcher.get(book_site.url(SLUG)).body
    first, second = book_site.asked(SLUG)
    assert second.at - first.at >= 0.5  # the date has whole seconds


def test_a_retry_after_beyond_the_limit_is_not_waited_for(book_site, fetcher):
    book_site.fail(SLUG, status(429, Retry_After="3600"))
    with pytest.raises(FetchFailed, match="asks to wait 3600 s"):
        fetcher.get(book_site.url(SLUG))


def test_an_unreadable_retry_after_means_our_own_pause(book_site, fetcher):
    book_site.fail(SLUG, status(429, Retry_After="soon"), status(503))
    assert fetcher.get(book_site.url(SLUG)).body


def test_retries_end(book_site, fetcher):
    book_site.fail(SLUG, always(status(503)))
    with pytest.raises(FetchFailed, match="status 503 Service Unavailable, after 3 tries"):
        fetcher.get(book_site.url(SLUG))
    assert len(book_site.asked(SLUG)) == 3


def test_a_hanging_server_is_left(book_site, fetcher):
    book_site.fail(SLUG, always(hang))
    started = time.monotonic()
    with pytest.raises(FetchFailed, match="the connection failed"):
        fetcher.get(book_site.url(SLUG))
    assert time.monotonic() - started < 3


def test_a_dripping_server_is_left(book_site):
    book_site.fail(SLUG, always(drip))
    settings = replace(QUICK, page_timeout_s=0.3, max_page_bytes=10**9)
    with (
        Fetcher(settings) as fetcher,
        pytest.raises(FetchFailed, match=r"not finished after 0\.3 s|connection failed"),
    ):
        fetcher.get(book_site.url(SLUG))


@pytest.mark.parametrize(
    "fault", [reset, content_length(1.5), hang], ids=["reset", "too-long", "hang"]
)
def test_a_broken_connection_is_tried_again(book_site, fetcher, fault):
    book_site.fail(SLUG, fault)
    assert fetcher.get(book_site.url(SLUG)).body == book_site.page(f"/local-book/{SLUG}/")


def test_a_connection_that_always_breaks_is_a_failure(book_site, fetcher):
    book_site.fail(SLUG, always(reset))
    with pytest.raises(FetchFailed, match="the connection failed"):
        fetcher.get(book_site.url(SLUG))


def test_a_compressed_page_is_unpacked(book_site, fetcher):
    book_site.fail(SLUG, gzipped)
    assert fetcher.get(book_site.url(SLUG)).body == book_site.page(f"/local-book/{SLUG}/")


def test_a_gzip_bomb_stops_at_the_limit(book_site, fetcher):
    book_site.fail(SLUG, gzip_bomb(200))
    with pytest.raises(FetchFailed, match="larger than the limit of 300,000 bytes"):
        fetcher.get(book_site.url(SLUG))
    assert fetcher.body_bytes < 1_000_000


def test_a_page_of_50_mib_stops_at_the_limit(book_site, fetcher):
    book_site.fail(SLUG, page(b"<p>" + b"x" * (50 * 2**20)))
    with pytest.raises(FetchFailed, match="larger than the limit"):
        fetcher.get(book_site.url(SLUG))
    assert fetcher.body_bytes < 1_000_000


def test_broken_compression_is_a_failure(book_site, fetcher):
    book_site.fail(SLUG, page(b"not gzip at all", Content_Encoding="gzip"))
    with pytest.raises(FetchFailed, match="cannot be read"):
        fetcher.get(book_site.url(SLUG))


@pytest.mark.parametrize("body", [b"", b"  \n"])
def test_an_empty_page_is_a_failure(book_site, fetcher, body):
    book_site.fail(SLUG, page(body))
    with pytest.raises(FetchFailed, match="empty page"):
        fetcher.get(book_site.url(SLUG))


@pytest.mark.parametrize("kind", ["application/pdf", "image/png", "application/json"])
def test_another_content_type_is_a_failure(book_site, fetcher, kind):
    book_site.fail(SLUG, page(b"<p>x</p>", kind))
    with pytest.raises(FetchFailed, match="content type must be"):
        fetcher.get(book_site.url(SLUG))


def test_without_a_content_type_markup_decides(book_site, fetcher):
    book_site.fail(SLUG, page(b"<p>x</p>", None), page(b"%PDF-1.4", None))
    assert fetcher.get(book_site.url(SLUG)).body == b"<p>x</p>"
    with pytest.raises(FetchFailed, match="got 'none'"):
        fetcher.get(book_site.url(SLUG))


def test_latin_1_that_calls_itself_utf_8_is_refused(book_site, fetcher):
    book_site.fail(SLUG, page("<p>caf\xe9</p>".encode("latin-1"), "text/html; charset=utf-8"))
    with pytest.raises(FetchFailed, match="declares utf-8, and byte 0xe9 at 6 does not fit"):
        fetcher.get(book_site.url(SLUG))


def test_utf_8_that_calls_itself_latin_1_is_read_as_utf_8(book_site, fetcher):
    book_site.fail(SLUG, page("<p>‘quoted’</p>".encode(), "text/html; charset=iso-8859-1"))
    got = fetcher.get(book_site.url(SLUG))
    assert "‘quoted’" in got.body.decode()
    assert got.charset == "iso-8859-1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay_s": -1},
        {"read_timeout_s": 0},
        {"max_page_bytes": 0},
        {"retries": -1},
        {"contact": "a\r\nX: b"},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FetchSettings(**wrong)
