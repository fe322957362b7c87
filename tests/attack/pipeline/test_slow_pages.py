"""A page has page_timeout_s, connection, handshake, headers, body and redirects together."""

import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
from pipeline.conftest import QUICK
from pipeline.sources.book_site import status

from attack.pipeline.raw_site import raw_site, trusted_here
from attack.programs import environment
from devopsgpt_pipeline.sources.web.answers import FetchError, FetchFailed
from devopsgpt_pipeline.sources.web.fetch import Fetcher

# a byte every 20 ms never lets the read timeout of 5 s pass
DRIPPED = replace(QUICK, page_timeout_s=0.5, read_timeout_s=5.0, retries=3, max_page_bytes=10**9)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
SLOW = {
    "status line": (b"HTTP/1.1 2", b"0"),
    "a header": (HEAD + b"X: ", b"x"),
    "headers": (HEAD, b"X: x\r\n"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body with a length": (HEAD + b"Content-Length: 1000000\r\n\r\n", b"<"),
    "body without a length": (HEAD + b"\r\n", b"<"),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n<\r\n"),
    "the length of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "headers after the chunks": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n<\r\n0\r\n",
        b"X: x\r\n",
    ),
}
KILLED_AFTER_S = 50.0  # each; a hundred times what a page may take
PROGRAM = """
import sys
from attack.pipeline.test_slow_pages import DRIPPED
from devopsgpt_pipeline.sources.web.answers import FetchError
from devopsgpt_pipeline.sources.web.fetch import Fetcher
for url in sys.argv[1:]:
    with Fetcher(DRIPPED) as fetcher:
        try:
            fetcher.get(url)
        except FetchError as error:
            print(error.reason)
"""


def reasons(sites):
    """What fetches of a process of their own say; a process can be killed, a read cannot."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(site.url for site in sites)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=KILLED_AFTER_S * len(sites),
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_drips_is_left_after_the_pages_time(scheme, tmp_path, monkeypatch, tried):
    tls = None
    if scheme == "https":
        tls, authority = trusted_here(tmp_path)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority)
    with ExitStack() as stack:
        sites = [stack.enter_context(raw_site(tls)) for _ in SLOW]
        for site, (answer, endless) in zip(sites, SLOW.values(), strict=True):
            site.answer, site.endless, site.pause_s = answer, endless, 0.02
        said = reasons(sites)
    assert said == ["not finished after 0.5 s; raise page_timeout_s"] * len(SLOW)
    assert [site.asked for site in sites] == [1] * len(SLOW)
    tried(f"{scheme}, dripped for ever: {', '.join(SLOW)}", f"each {said[0]}")


def test_a_tls_handshake_that_drips_is_left_too(tmp_path, monkeypatch, tried):
    tls, authority = trusted_here(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority)
    with raw_site(tls) as site:
        site.silent_handshake, site.pause_s = True, 0.02
        (said,) = reasons([site])
    assert "robots.txt cannot be read (not finished after 0.5 s" in said
    tried("a TLS handshake dripped for ever", said)


def test_the_time_holds_for_all_redirects_together(tried):
    """Each answer takes less than the page's time; five of them take more."""
    with raw_site() as site, Fetcher(replace(DRIPPED, page_timeout_s=1.0)) as fetcher:
        slow = site._drip

        def later(connection, answer, endless):
            time.sleep(0.4)
            slow(connection, answer, endless)

        site._drip = later
        site.answer = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"
        with pytest.raises(FetchFailed, match="not finished after 1 s"):
            fetcher.get(site.url)
        assert 1 < site.asked < 5
    tried("redirects that take 0.4 s each", f"left after the page's second, at {site.asked}")


def test_pauses_of_our_own_are_not_the_pages_time(book_site):
    book_site.fail("on-the-lamp", status(503, Retry_After="1"))
    with Fetcher(replace(QUICK, page_timeout_s=0.9)) as fetcher:
        assert fetcher.get(book_site.url("on-the-lamp")).body


def test_the_body_of_a_redirect_is_not_read(tried):
    """requests reads it, however large, also where it is told not to follow."""
    with raw_site() as site, Fetcher(replace(QUICK, page_timeout_s=2.0)) as fetcher:
        site.answer = b"HTTP/1.1 302 Found\r\nLocation: /robots.txt\r\n\r\n"
        site.endless = b"x" * 65536
        with pytest.raises(FetchError, match=r"content type|empty"):
            fetcher.get(site.url)
    tried("a redirect with an endless body", "followed, and the body left unread")


def test_after_a_page_that_took_too_long_the_next_one_comes(book_site):
    with raw_site() as site, Fetcher(DRIPPED) as fetcher:
        site.answer, site.endless = SLOW["a header"]
        site.pause_s = 0.02
        with pytest.raises(FetchFailed, match="not finished"):
            fetcher.get(site.url)
        assert fetcher.get(book_site.url("on-the-lamp")).body
