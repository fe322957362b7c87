"""A home from before the books' dataset was renamed from `sre` to `books`."""

import dagster as dg

from devopsgpt_model.token_bins import TokenBins, write_token_bins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.defs.datasets import build_token_bins
from devopsgpt_pipeline.defs.resources import HomeResource
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.profiles import PROFILES
from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.text.corpus import clean_book


def test_its_token_bins_are_used_until_new_ones_take_their_place(
    tmp_path, book_site, book, fetcher
):
    home = Home(tmp_path / "home").prepare()
    documents = {"train": [("a", "an old corpus")], "val": [("b", "old, too")]}
    write_token_bins(home.tokens / "sre", "sre", Tokenizer.plain_bytes(), documents)
    for name in ("sre", "books"):
        assert TokenBins.open(home.bins(name)).meta.dataset == "sre"

    archive = ChapterArchive(home.chapters / book.name)
    assert scrape_book(book, fetcher, archive).accepted
    clean_book(archive.folder, home.text / book.name, book)
    with dg.DagsterInstance.ephemeral() as instance:
        made = dg.materialize(
            [build_token_bins(PROFILES["sample"], [book])],
            instance=instance,
            resources={"home": HomeResource(path=str(home.path))},
            run_config={"ops": {"token_bins_books": {"config": {"held_out_fraction": 0.3}}}},
        )
    assert made.success
    for name in ("sre", "books"):
        assert TokenBins.open(home.bins(name)).meta.dataset == "books"
    assert [path.name for path in home.tokens.glob("[!.]*")] == ["books"]
    assert len(list(home.tokens.glob(".*"))) == 1  # the folder that `books` points to
