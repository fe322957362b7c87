"""Fixtures of the pipeline's tests."""

import pytest

from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.web.fetch import Fetcher, FetchSettings
from devopsgpt_pipeline.tracking.client import CHAMPION, MODEL_NAME
from devopsgpt_pipeline.tracking.runs import start_run
from devopsgpt_pipeline.tracking.versions import publish
from pipeline.registry.contenders import TEXT, save_contender
from pipeline.sources.book_site import Server, small_site

QUICK = FetchSettings(
    delay_s=0.0,
    allow_http=True,
    connect_timeout_s=1.0,
    read_timeout_s=0.3,
    page_timeout_s=2.0,
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


@pytest.fixture
def run_id(registry):
    """A run that made something to register."""
    dataset = {"name": "books", "digest": "abc", "source": "tokens/books"}
    return start_run(registry, "scratch-books", {"max_steps": 3}, {"kind": "finetune"}, dataset)


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "promotion.lock"


@pytest.fixture
def versions(registry, checkpoint_folder, run_id):
    """Two complete versions, the first one the champion."""
    one, two = (
        publish(registry, checkpoint_folder, run_id, {"val_loss": "1.5"}, "a test")
        for _ in range(2)
    )
    registry.set_registered_model_alias(MODEL_NAME, CHAMPION, one)
    return one, two


@pytest.fixture
def yardstick(tmp_path):
    """The token bins that a gate judges on."""
    write_token_bins(
        tmp_path / "bins",
        "books",
        Tokenizer.plain_bytes(),
        {"train": [("a", TEXT)], "val": [("b", TEXT)]},
    )
    return TokenBins.open(tmp_path / "bins")


@pytest.fixture
def better(tmp_path):
    """A checkpoint that knows nothing, and one that has learned which bytes are frequent."""
    return save_contender(tmp_path / "plain", 0), save_contender(tmp_path / "better", 5)
