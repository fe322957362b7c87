"""Fixtures of the pipeline's tests."""

import pytest

from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.fetch import Fetcher, FetchSettings
from pipeline.book_site import Server, small_site

QUICK = FetchSettings(
    delay_s=0.0,
    allow_http=True,
    connect_timeout_s=1.0,
    read_timeout_s=0.3,
    page_timeout_s=1.0,
    retries=2,
    backoff_s=0.01,
    max_retry_after_s=2.0,
    max_page_bytes=300_000,
    contact="tests@example.org",
)


@pytest.fixture
def book_site():
    """A book of six chapters on a real server."""
    site = small_site()
    server = Server(site)
    yield site
    server.close()


@pytest.fixture
def other_site():
    """A second server, on another port."""
    site = small_site(2)
    server = Server(site)
    yield site
    server.close()


@pytest.fixture
def book(book_site, tmp_path):
    return book_site.book(tmp_path)


@pytest.fixture
def fetcher():
    with Fetcher(QUICK) as fetcher:
        yield fetcher


@pytest.fixture
def archive(tmp_path):
    return ChapterArchive(tmp_path / "chapters" / "local-book")
