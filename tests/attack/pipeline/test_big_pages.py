"""Pages of 5 MB that are made to keep the reader busy: refused, or read in bounded time."""

import subprocess
import sys

import cssselect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from pipeline.sources.book_site import page

from attack.programs import environment
from devopsgpt_pipeline.sources.css import select
from devopsgpt_pipeline.sources.html import MAX_TAGS, parse_page
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.sources.web.fetch import Fetcher, FetchSettings

MIB = 2**20
INSIDE = b'<div id="maia-main"><div id="content"><h1>x</h1>%s</div></div>'
LINKS = b'<ol id="drop-down">' * 240 + b'<a class="menu-buttons" href="/x">t</a>' * 95_000
BIG = {
    "nested <p>": INSIDE % (b"<p>" * (5 * MIB // 3)),
    "nested <p> with text": INSIDE % (b"<p>x" * (5 * MIB // 4)),
    "</p>": INSIDE % (b"</p>" * (5 * MIB // 4)),
    "<p without an end": INSIDE % (b"<p " * (5 * MIB // 3)),
    "one name of 5 MB": INSIDE % (b"<p>" * 600 + b"<" + b"a" * (4 * MIB)),
    "signs in <sup>": INSIDE % (b"<sup>" + b"1" * (4 * MIB) + b"x</sup>"),
    "links in nested lists": LINKS,
    "one title of 4 MB": b'<ol id="drop-down"><a class="menu-buttons" href="/x">' + b"t " * 2 * MIB,
}
# usual: what a sound page of 5 MB takes, a paragraph for each 500 characters
PROGRAM = """
import faulthandler, resource, sys, time
from attack.pipeline.test_big_pages import BIG, INSIDE, MIB
from devopsgpt_pipeline.sources.books import SHIPPED, load_book
from devopsgpt_pipeline.sources.pages.chapter import read_content
from devopsgpt_pipeline.sources.pages.contents import ContentsUnreadable, read_contents
book = load_book(SHIPPED / "sre-book.toml")
def read(body):
    read_content(body, book)
    try:
        read_contents(body, book)
    except ContentsUnreadable:
        pass
started = time.perf_counter()
read(INSIDE % (b"<p>" + b"word " * 100) * 1)
read(INSIDE % ((b"<p>" + b"word " * 100 + b"</p>") * (5 * MIB // 507)))
usual_s = time.perf_counter() - started
faulthandler.dump_traceback_later(100 * usual_s, exit=True)
started = time.perf_counter()
read(BIG[sys.argv[1]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(f"{time.perf_counter() - started:.1f} s (a sound page: {usual_s:.1f} s), {peak} MB at most")
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", BIG)
def test_a_big_page_is_read_in_bounded_time(what, tried):
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], env=environment(), capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    tried(f"5 MB of {what}", answer.stdout.strip())


@pytest.mark.parametrize(
    "what", [name for name, body in BIG.items() if body.count(b"<") > MAX_TAGS]
)
def test_a_page_of_too_many_tags_is_the_failure_of_that_chapter_alone(
    what, book_site, book, archive, tried
):
    book_site.fail("on-the-lamp", page(BIG[what][: 5 * MIB], "text/html"))
    with Fetcher(FetchSettings(delay_s=0.0, allow_http=True)) as fetcher:
        report = scrape_book(book, fetcher, archive)
    (failed,) = report.failed
    assert "a page may have 200,000 tags" in failed.reason
    assert report.chapters == 5
    tried(f"a chapter of {what}", f"one chapter failed: {failed.reason}")


SELECTORS = [
    *("a b", "a > b", "a + b", "a ~ b", "a b > i", "a > b i", "b, a i", "a.x b", "i ~ b a", "*"),
    *("#y b + i", "a:not(.x) b", "a * i", "i:first-child, b a ~ i", "b i:last-child"),
]
TAGS = ["a", "b", "i", 'a class="x"', 'b id="y"']
TREES = st.recursive(
    st.just([]), lambda inside: st.lists(st.tuples(st.sampled_from(TAGS), inside), max_size=4)
)


def written(tree):
    return "".join(f"<{tag}>{written(inside)}</{tag[0]}>" for tag, inside in tree)


@pytest.mark.parametrize("selector", SELECTORS)
@settings(deadline=None, max_examples=50)
@given(tree=TREES)
def test_selectors_find_what_cssselects_own_xpath_finds(selector, tree):
    found = etree.fromstring(f"<main>{written(tree)}</main>")
    expected = etree.XPath(cssselect.HTMLTranslator().css_to_xpath(selector))(found)
    assert select(found, selector) == expected


def test_a_page_within_the_limits_is_not_changed():
    text = "<main>" + "<p>x</p>" * (MAX_TAGS // 2 - 1) + "</main>"
    tree = parse_page(text)
    assert len(tree.findall(".//p")) == MAX_TAGS // 2 - 1
