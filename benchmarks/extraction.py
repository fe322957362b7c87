"""Pages to text: MB of HTML a second, ours against trafilatura and BeautifulSoup, on the sample
books."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import trafilatura
from bs4 import BeautifulSoup

from devopsgpt_pipeline.sources.books import Book, books_of_profile
from devopsgpt_pipeline.sources.pages.contents import read_contents
from devopsgpt_pipeline.sources.sample_site.pages import (
    PACKAGED,
    chapter_page,
    contents_page,
    read_sample_book,
)
from devopsgpt_pipeline.text.page_to_text import extract_chapter

TOTAL_BYTES = 50_000_000


@dataclass(frozen=True)
class Sample:
    """A chapter's page as a server sends it."""

    book: Book
    title: str
    body: bytes


def pages() -> list[Sample]:
    """Every chapter of the two sample books."""
    samples = []
    for book in books_of_profile("sample"):
        sample_book = read_sample_book(PACKAGED / book.name)
        for link in read_contents(contents_page(sample_book).encode(), book, "utf-8").chapters:
            samples.append(Sample(book, link.title, chapter_page(sample_book, link.slug).encode()))
    return samples


def ours(sample: Sample) -> int:
    """The blocks of the content in order, notes apart, normalized."""
    return len(extract_chapter(sample.body, sample.book, sample.title).whole)


def with_trafilatura(sample: Sample) -> int:
    """Its default extraction, comments off: it finds the main text by itself."""
    return len(trafilatura.extract(sample.body, include_comments=False) or "")


def with_beautifulsoup(sample: Sample) -> int:
    """The least that a person would write: the content element's text, a line per string, on the
    fastest parser."""
    content = BeautifulSoup(sample.body, "lxml").select_one(sample.book.content[0])
    return len(content.get_text("\n", strip=True)) if content else 0


ENGINES: dict[str, Callable[[Sample], int]] = {
    "ours": ours,
    "trafilatura": with_trafilatura,
    "BeautifulSoup": with_beautifulsoup,
}


def main() -> None:
    """The library over and over, the engines taking turns at each round, until 50 MB went through
    each."""
    samples = pages()
    size = sum(len(sample.body) for sample in samples)
    rounds = -(-TOTAL_BYTES // size)
    seconds, characters = dict.fromkeys(ENGINES, 0.0), dict.fromkeys(ENGINES, 0)
    for _ in range(rounds):
        for name, extract in ENGINES.items():
            started = time.perf_counter()
            characters[name] += sum(extract(sample) for sample in samples)
            seconds[name] += time.perf_counter() - started
    print(f"{len(samples)} pages, {size:,} bytes, {rounds} rounds = {rounds * size / 1e6:.1f} MB")
    print(f"{'':<14} {'MB/s':>7} {'ours is':>9} {'characters':>11}")
    for name in ENGINES:
        rate, ratio = rounds * size / seconds[name] / 1e6, seconds[name] / seconds["ours"]
        print(f"{name:<14} {rate:>7.1f} {ratio:>8.2f}x {characters[name] // rounds:>11,}")


if __name__ == "__main__":
    main()
