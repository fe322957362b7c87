"""No HTML, however broken, crashes the extractor or takes more than linear time."""

import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devopsgpt_pipeline.sources.html import Undecodable, names
from devopsgpt_pipeline.sources.pages.chapter import read_content
from pipeline.text.test_page_to_text import BOOK

NAMES = sorted(
    names(
        "p div b i sup sub pre ul ol li dl dt dd table tr td th caption h1 h2 a br section aside "
        "blockquote script "
        "style template svg math select option textarea form title head body html frameset "
        "plaintext xmp noscript"
    )
)
TAGS = st.one_of(
    st.sampled_from(NAMES).map(lambda name: f"<{name}>"),
    st.sampled_from(NAMES).map(lambda name: f"</{name}>"),
    st.sampled_from(NAMES).map(
        lambda name: f'<{name} data-type="footnote" class="byline" start="x" value=9>'
    ),
    st.sampled_from(
        [
            "<",
            ">",
            "</",
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "<?x",
            "<!DOCTYPE",
            "&amp;",
            "&#0;",
            "&#x110000;",
            '<a href="',
            "'",
        ]
    ),
    st.text(max_size=8),
)
PAGES = st.lists(TAGS, max_size=60).map("".join)
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(PAGES)
def test_any_soup_of_tags_is_read(page):
    body = f'<div id="content">{page}'.encode(errors="replace")
    content = read_content(body, BOOK)
    if content is not None:
        assert all(block.text.strip() for block in content.blocks)
        assert len(content.sha256) == 64


@QUICK
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(body):
    with suppress(Undecodable):
        read_content(b'<div id="content">' + body, BOOK)


@QUICK
@given(PAGES)
def test_text_of_paragraphs_survives_whatever_stands_before(page):
    body = f'<div id="content"><p>alpha beta</p></div>{page}'.encode(errors="replace")
    content = read_content(body, BOOK)
    assert content is not None
    assert content.blocks[0].text == "alpha beta"


SHAPES = {
    "open divs": lambda n: "<div>x" * n,
    "open and closed divs": lambda n: "<div>x" * n + "</div>" * n,
    "open bold": lambda n: "<b>x" * n,
    "bold and divs crossed": lambda n: "<b><div>x</b></div>" * n,
    "deep and then wrong ends": lambda n: "<div>" * n + "</p>x" * n,
    "lists in lists": lambda n: "<ul><li>x" * n,
    "tables in tables": lambda n: "<table><tr><td>x" * n,
    "tables side by side": lambda n: "<table><tr><td>x</table>" * n,
    "raised in raised": lambda n: "<sup>1" * n,
    "notes in notes": lambda n: '<span data-type="footnote">x' * n,
    "many attributes": lambda n: "<p " + " ".join(f"a{i}=1" for i in range(n)) + ">x",
    "many attributes with brackets": lambda n: (
        "<p " + " ".join(f'a{i}="<>"' for i in range(n)) + ">x"
    ),
    "many names": lambda n: "".join(f"<x{i}>y" for i in range(n)),
    "less-than signs": lambda n: "<" * n + "x",
    "open tags without end": lambda n: "<a " * n + "x",
    "open comments": lambda n: "x<!--" * n,
    "open quotes": lambda n: 'x<a href="' * n,
    "ampersands": lambda n: "&" * n,
    "entities": lambda n: "&eacute" * n,
    "one long listing": lambda n: "<pre>" + "<i>x</i>\n" * n + "</pre>",
    "one long paragraph": lambda n: "<p>" + "x<br>" * n,
    "spaces": lambda n: "<p>x" + " \n" * n + "y",
    "metas": lambda n: "<meta " * n + "x",
}


def seconds(shape, n):
    body = b'<div id="content"><p>start</p>' + SHAPES[shape](n).encode()
    started = time.process_time()
    content = read_content(body, BOOK)
    assert content is not None
    assert content.blocks[0].text.startswith("start")
    return time.process_time() - started


@pytest.mark.parametrize("shape", SHAPES)
def test_time_grows_with_the_page_and_not_with_its_square(shape):
    small, large = seconds(shape, 3_000), seconds(shape, 24_000)
    # eight times the page: linear is 8, a square 64; below 50 ms the clock decides
    assert large < max(24 * small, 0.05) or large < max(24 * seconds(shape, 3_000), 0.05)


@pytest.mark.parametrize("shape", ["open divs", "open bold", "lists in lists"])
def test_text_beyond_the_depth_limit_is_kept(shape):
    body = b'<div id="content"><p>start</p>' + SHAPES[shape](5_000).encode() + b"</div>"
    content = read_content(body, BOOK)
    assert sum(block.text.count("x") for block in content.blocks) == 5_000
