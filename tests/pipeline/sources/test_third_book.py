"""A third book, on a differently built site, by a TOML file and no code."""

import pytest

from devopsgpt_pipeline.sources.archive import ChapterArchive
from devopsgpt_pipeline.sources.books import books_of_profile
from devopsgpt_pipeline.sources.scrape import scrape_book
from devopsgpt_pipeline.text.corpus import clean_book, read_texts

TOML = """
name = "harbour-manual"
title = "The Harbour Manual"
contents_url = "{origin}/docs/index.html"
licence = "CC BY 4.0"
attribution = "The harbour's people"
crawl_delay_s = 0.0

[select]
links = "nav.sidebar a"
content = ["article.post", "main"]
drop = [".edit-this-page", ".permalink"]
notes = [".footnotes li"]
note_markers = ["a.footnote", "a.reversefootnote"]

[leave_out]
slugs = ["changelog"]
titles = ["^glossary"]
"""

FRAME = """<!doctype html><html><head><title>{title} | Harbour</title>
<style>p {{ color: red }}</style></head>
<body class="docs"><header><h1>Harbour docs</h1></header>
<nav class="sidebar"><ul><li><a href="index.html">Home</a></li>
<li><a href="./mooring.html">Mooring</a>
<ul><li><a href="mooring/knots.html">Knots</a></li></ul></li>
<li><a href="tides.html?lang=en">Tides &amp; Times</a></li>
<li><a href="changelog.html">Changes</a></li>
<li><a href="words.html">Glossary of words</a></li></ul></nav>
{main}
<footer>Built with a generator. <a class="edit-this-page">Edit</a></footer></body></html>"""

MOORING = """<main><aside>Related pages</aside><article class="post">
<a class="edit-this-page" href="#">Edit this page</a>
<h1>Mooring<a class="permalink" href="#mooring">#</a></h1>
<p>Come in slowly.<sup><a class="footnote" href="#fn1">1</a></sup> Then make fast:</p>
<div class="highlight"><pre><code>bow   -&gt; ring 4
stern -&gt; ring 9
</code></pre></div>
<ol><li>Bow line.</li><li>Stern line.</li></ol>
<div class="footnotes"><ol><li id="fn1">
<p>Slower than that. <a class="reversefootnote" href="#r1">&#8617;</a></p></li></ol></div>
</article></main>"""

KNOTS = "<main><h2>Bowline</h2><p>" + "Round the tree and down the hole. " * 12 + "</p></main>"
TIDES = (
    "<main><h1>Tides &amp; Times</h1><p>"
    + "The water comes and the water goes. " * 12
    + "</p></main>"
)


@pytest.fixture
def harbour(book_site, tmp_path):
    mains = {
        "index.html": "<main>Welcome</main>",
        "mooring.html": MOORING,
        "mooring/knots.html": KNOTS,
    }
    mains["tides.html?lang=en"] = TIDES
    for name, main in mains.items():
        book_site.pages[f"/docs/{name}"] = FRAME.format(title=name, main=main).encode()
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "harbour.toml").write_text(TOML.format(origin=book_site.origin))
    return folder


def test_a_toml_file_adds_a_book_of_another_make(harbour, fetcher, tmp_path):
    book = books_of_profile("sample", harbour)[-1]
    archive = ChapterArchive(tmp_path / "chapters" / book.name)
    report = scrape_book(book, fetcher, archive)
    assert report.accepted
    assert [(left.title, left.reason) for left in report.left_out] == [
        ("Home", "the contents page itself"),
        ("Changes", "slug rule 'changelog'"),
        ("Glossary of words", "title rule '^glossary'"),
    ]
    clean_book(archive.folder, tmp_path / "text", book)
    texts = {row.slug: text for row, text in read_texts(tmp_path / "text")}
    assert list(texts) == ["mooring", "knots", "tides"]
    assert texts["mooring"] == (
        "Mooring\n\nCome in slowly. Then make fast:\n\nbow   -> ring 4\nstern -> ring 9\n\n"
        "1. Bow line.\n2. Stern line.\n\nSlower than that.\n"
    )
    assert texts["knots"].startswith("Knots\n\nBowline\n\nRound the tree")
    assert texts["tides"].startswith("Tides & Times\n\nThe water comes")
