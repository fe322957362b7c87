"""Extraction: everything of the content once, in order, words whole; nothing from outside."""

from html.parser import HTMLParser

import pytest
from conftest import shared_file

from devopsgpt_pipeline.sources.books import Book, books_of_profile
from devopsgpt_pipeline.sources.html import Undecodable, decode_page
from devopsgpt_pipeline.sources.pages.chapter import read_content
from devopsgpt_pipeline.sources.pages.contents import read_contents
from devopsgpt_pipeline.sources.sample_site.pages import PACKAGED, chapter_page, read_sample_book
from devopsgpt_pipeline.text.clean import UncleanText, normalize
from devopsgpt_pipeline.text.page_to_text import EmptyChapter, extract_chapter

BOOK = Book(
    name="test",
    title="Test",
    contents_url="https://example.org/",
    licence="MIT",
    attribution="nobody",
    links="a",
    content=("#content",),
    drop=(".byline",),
)


def extract(inside, title="Title"):
    body = f'<nav>menu</nav><div id="content">{inside}</div><footer>foot</footer>'
    page = f"<html><body>{body}</body></html>"
    return extract_chapter(page.encode(), BOOK, title)


def text(inside):
    """The text after the title."""
    return extract(inside).text.removeprefix("Title").strip("\n")


def test_the_title_stands_first_and_once():
    assert extract("<h1>One Thing</h1><p>Text.</p>", "1. One Thing").text == "One Thing\n\nText."
    assert (
        extract("<h1>Chapter 1. One Thing</h1><p>Text.</p>", "1. One Thing").text
        == "Chapter 1. One Thing\n\nText."
    )
    assert (
        extract("<h1>Part I. Things</h1><p>Text.</p>", "Part I - Things").text
        == "Part I. Things\n\nText."
    )
    assert (
        extract("<h1>A Section</h1><p>Text.</p>", "1. One Thing").text
        == "One Thing\n\nA Section\n\nText."
    )
    assert extract("<p>Text.</p>", "Appendix A. One Thing").text == "One Thing\n\nText."


def test_inline_tags_neither_glue_nor_tear_words():
    assert text("<p>un<b>believ</b>able <i>and</i> <code>x</code>.</p>") == "unbelievable and x."
    assert text("<p>one<br>two<br/>three</br>four</p>") == "one\ntwo\nthree\nfour"
    assert text("<h2>one<br>two</h2>") == "one two"
    assert text("<p>  one\n two\t<span> three</span> </p>") == "one two three"
    assert text("<div>one</div>two<p>three</p>four") == "one\n\ntwo\n\nthree\n\nfour"
    assert text("<p>a<!-- not this -->b</p>") == "ab"


def test_raised_digits_do_not_join_the_number_before_them():
    assert (
        text("<p>10<sup>9</sup> of H<sub>2</sub>O on the 1<sup>st</sup></p>")
        == "10⁹ of H₂O on the 1st"
    )


def test_lists_keep_their_items_numbers_and_depth():
    assert (
        text("<ul><li>a<ul><li>b</li></ul>c</li><li><p>d</p><p>e</p></li></ul>")
        == "- a\n  - b\n  c\n- d\n  e"
    )
    assert text('<ol start="3"><li>a</li><li value="7">b</li><li>c</li></ol>') == "3. a\n7. b\n8. c"


def test_definitions_follow_their_terms():
    assert text(
        "<dl><dt>A</dt><dd>one</dd><dt>B</dt><dd><p>two</p><ul><li>x</li></ul></dd></dl>"
    ) == ("A\none\n\nB\ntwo\n\n- x")


def test_listings_keep_line_breaks_and_indentation():
    listing = "<pre>\n\nif a:\n\tb  c\n    <b>d</b>  \n\n    e<br>f\n</pre>"
    assert text(f"<p>x</p>{listing}<p>y</p>") == "x\n\nif a:\n\tb  c\n    d\n\n    e\nf\n\ny"
    assert text("<pre><code><div>a</div><div>  b</div></code></pre>") == "a\n  b"
    assert text("<ul><li>run<pre>x\n  y</pre>then</li></ul>") == "- run\n\nx\n  y\n\n  then"


def test_tables_keep_their_cells_in_rows():
    first, second = "<th>a</th><th></th>", "<td><p>b</p><p>c</p></td><td>d</td>"
    table = f"<table><caption>C</caption><tr>{first}</tr><tr>{second}</tr></table>"
    assert text(table) == "C\n\na | \nb c | d"
    assert text("<table><tr><td>a<pre>x\n y</pre></td><td>b</td></tr></table>") == "a\n\nx\n y\n\nb"
    assert (
        text("<table><tr><td>a<table><tr><td>b</td></tr></table>c</td></tr></table>") == "a\nb\nc"
    )
    assert text("<table><tr><td><h2>A</h2><p>b</p><p>c</p></td></tr></table>") == "A\n\nb\n\nc"


def test_notes_stand_apart_and_their_markers_are_gone():
    chapter = extract(
        '<p>Sloss<sup><a data-type="noteref" href="#n">6</a></sup><br>Edited</p>'
        '<div class="footnotes"><p data-type="footnote" id="n">'
        '<sup><a href="#n-marker">6</a></sup>A note.</p></div>'
        '<p>In<span data-type="footnote">Inside.</span>line.</p>'
    )
    assert chapter.text == "Title\n\nSloss\nEdited\n\nInline."
    assert chapter.notes == ("A note.", "Inside.")
    assert chapter.whole == "Title\n\nSloss\nEdited\n\nInline.\n\nA note.\n\nInside.\n"


def test_what_is_not_text_is_left_out():
    assert text(
        "<script>a</script><style>b</style><p class='x byline'>By "
        "c</p><nav>d</nav><template>e</template>"
        "<p>text<button>copy</button><svg><text>f</text></svg></p><iframe>g</iframe>"
    ) == ("text")


def test_text_is_normalized_once():
    assert text("<p>so\u00adft\u200b, a\u00a0b\u2009c, “q” it’s cafe\u0301 — 5–6…</p>") == (
        'soft, a b c, "q" it\'s café — 5–6…'
    )


def test_wrongly_decoded_text_is_refused():
    with pytest.raises(UncleanText, match="text must be decoded rightly, found"):
        extract("<p>" + "It’s".encode().decode("cp1252") + "</p>")


@pytest.mark.parametrize(
    "page", [b"", b"<p>x</p>", b'<div id="content"> <!-- x --> <script>y</script></div>']
)
def test_a_page_without_content_is_said(page):
    with pytest.raises(EmptyChapter, match="a page must have text in #content, found none"):
        extract_chapter(page, BOOK, "Title")


@pytest.mark.parametrize(
    ("body", "charset", "expected"),
    [
        ("é’".encode(), None, "é’"),
        ("é’".encode(), "iso-8859-1", "é’"),
        ("\ufeffé".encode(), "latin-1", "é"),
        ("é".encode("utf-16"), None, "é"),
        (b"\xe9\x92", "iso-8859-1", "é’"),
        (b'<meta charset="windows-1252">\xe9', None, '<meta charset="windows-1252">é'),
        (b'<meta http-equiv="x" content="text/html; charset=latin1">\xe9', "utf-8", None),
        (b"\xe9", "no-such-charset", Undecodable),
        (b"\xe9", None, Undecodable),
    ],
)
def test_bytes_are_decoded_by_what_fits_and_what_is_declared(body, charset, expected):
    if expected is Undecodable:
        with pytest.raises(Undecodable, match="byte 0xe9 at 0 does not fit"):
            decode_page(body, charset)
    else:
        assert decode_page(body, charset) == (expected or body.decode("latin-1"))


# The words of a page, by another parser and another way: what extraction must give, no more and no
# less.

GLUING = {
    "a",
    "b",
    "i",
    "em",
    "strong",
    "span",
    "code",
    "kbd",
    "sup",
    "sub",
    "q",
    "cite",
    "var",
    "samp",
    "small",
    "abbr",
    "u",
    "tt",
}
SKIPPED = {"script", "style"}
VOID = {"br", "img", "hr", "col", "meta", "link", "input"}


class _Words(HTMLParser):
    """Text of #content without bylines, markers and notes; the notes apart; listings line by
    line."""

    def __init__(self):
        super().__init__()
        self.stack, self.out, self.notes, self.listings = [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        kind = values.get("data-type")
        marker = kind == "noteref" or (values.get("href") or "").endswith("-marker")
        byline = "byline" in (values.get("class") or "").split()
        if tag in VOID:
            self.put("\n")
            return
        if tag not in GLUING:
            self.put("\n")
        if tag == "pre":
            self.listings.append("")
        self.stack.append(
            (
                tag,
                values.get("id") == "content",
                marker or byline or tag in SKIPPED,
                kind == "footnote",
                tag == "pre",
            )
        )

    def handle_startendtag(self, tag, attributes):
        self.put("\n")

    def handle_endtag(self, tag):
        if tag == "br":
            self.put("\n")
        elif tag in [entry[0] for entry in self.stack]:
            if tag not in GLUING:
                self.put("\n")
            while self.stack.pop()[0] != tag:
                pass

    def handle_data(self, data):
        self.put(data)

    def put(self, data):
        _, content, skipped, note, listing = [
            any(column) for column in zip(*self.stack, strict=True)
        ] or [False] * 5
        if content and not skipped:
            (self.notes if note else self.out).append(data)
            if listing:
                self.listings[-1] += data


def words_of(page):
    parser = _Words()
    parser.feed(page)
    parser.close()
    return parser


def bare(words):
    """Without the marks that the extraction sets itself."""
    return [word for word in words if word != "-" and not word.rstrip(".").isdecimal()]


def assert_exact(body, book, title):
    chapter = extract_chapter(body, book, title)
    reference = words_of(body.decode())
    expected = normalize("".join(reference.out))
    assert bare(chapter.text.replace("|", " ").split()) == bare(expected.replace("|", " ").split())
    assert " ".join(chapter.notes).split() == normalize("".join(reference.notes)).split()
    content = read_content(body, book)
    blocks = [block.text for block in content.blocks if block.kind == "listing"]
    lines = [
        [line.rstrip() for line in listing.strip("\n").split("\n")]
        for listing in reference.listings
    ]
    assert [block.split("\n") for block in blocks] == lines


SAMPLES = [
    (book, entry)
    for book in books_of_profile("sample")
    for entry in read_sample_book(PACKAGED / book.name).entries
]


@pytest.mark.parametrize(
    ("book", "entry"), SAMPLES, ids=[f"{book.name}/{entry.slug}" for book, entry in SAMPLES]
)
def test_a_sample_chapter_is_extracted_exactly(book, entry):
    page = chapter_page(read_sample_book(PACKAGED / book.name), entry.slug)
    assert_exact(page.encode(), book, entry.title)


@pytest.mark.parametrize(
    ("name", "title", "headings", "paragraphs", "items", "notes"),
    [("foreword", "Foreword", 1, 8, 0, 0), ("introduction", "1. Introduction", 14, 48, 9, 3)],
)
def test_a_real_page_is_extracted_exactly(name, title, headings, paragraphs, items, notes):
    body = shared_file(f"site_pages/{name}.html").read_bytes()
    (book,) = [book for book in books_of_profile("sre") if book.name == "sre-book"]
    assert_exact(body, book, title)
    content = read_content(body, book)
    kinds = [block.kind for block in content.blocks]
    assert kinds.count("heading") == headings
    assert kinds.count("item") == items
    assert kinds.count("paragraph") == paragraphs
    assert len(content.notes) == notes
    whole = extract_chapter(body, book, title).whole
    for outside in ("Written by", "Copyright ©", "Table of Contents", "Previous", "analytics"):
        assert outside not in whole


def test_the_real_contents_page_lists_the_whole_book():
    body = shared_file("site_pages/table-of-contents.html").read_bytes()
    (book,) = [book for book in books_of_profile("sre") if book.name == "sre-book"]
    contents = read_contents(body, book)
    assert len(contents.chapters) + len(contents.left_out) == 48
    assert [left.title for left in contents.left_out] == ["Bibliography"]
    assert (contents.chapters[3].slug, contents.chapters[3].title) == (
        "introduction",
        "1. Introduction",
    )
    chapter = shared_file("site_pages/introduction.html").read_bytes()
    assert read_contents(chapter, book).chapters == contents.chapters
