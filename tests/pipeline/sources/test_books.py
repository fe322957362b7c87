"""Books as configuration, and what a contents page lists."""

import pytest

from devopsgpt_pipeline.sources.addresses import absolute_url
from devopsgpt_pipeline.sources.books import (
    SHIPPED,
    BookError,
    books_of_profile,
    load_book,
    load_books,
)
from devopsgpt_pipeline.sources.pages.contents import (
    ContentsUnreadable,
    read_contents,
    slug_of,
)

GOOD = """
name = "third"
title = "A Third Book"
contents_url = "https://example.org/third/contents.html"
licence = "CC0"
attribution = "somebody"
[select]
links = "#toc a"
content = ["article"]
"""


def write(tmp_path, text, name="third.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def listing(*links):
    items = "".join(f'<li><a href="{href}">{title}</a></li>' for href, title in links)
    return f'<html><body><ul id="toc">{items}</ul></body></html>'.encode()


def test_the_shipped_books_load_with_licence_and_attribution():
    books = load_books(SHIPPED)
    assert [book.name for book in books] == [
        "night-shift",
        "sre-book",
        "steady-service",
        "workbook",
    ]
    assert all(book.licence and book.attribution for book in books)
    assert all(book.contents_url.startswith("https://") for book in books if book.profile == "sre")


def test_a_profile_names_its_books():
    assert [book.name for book in books_of_profile("sample")] == ["night-shift", "steady-service"]
    assert [book.name for book in books_of_profile("sre")] == ["sre-book", "workbook"]
    with pytest.raises(ValueError, match="no books for profile 'x'; the profiles are sample, sre"):
        books_of_profile("x")


def test_a_folder_adds_books_to_a_profile(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace('"third"', '"fourth"\nprofile = "sre"'), "fourth.toml")
    assert [book.name for book in books_of_profile("sample", tmp_path)] == [
        "night-shift",
        "steady-service",
        "third",
    ]
    assert [book.name for book in books_of_profile("sre", tmp_path)] == [
        "sre-book",
        "workbook",
        "fourth",
        "third",
    ]


def test_two_books_of_one_name_are_refused(tmp_path):
    write(tmp_path, GOOD.replace('"third"', '"workbook"'))
    with pytest.raises(BookError, match=r"two books are named 'workbook'.*rename one"):
        books_of_profile("sre", tmp_path)


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(BookError, match="no folder of books at"):
        load_books(tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "third"', "", "a book needs name"),
        ("links =", "link =", "unknown key select.link; the keys are select.links, select.content"),
        ('"third"', '"Third Book"', "name must be lower-case"),
        ('"third"', '"../up"', "name must be lower-case"),
        (
            '"https://example.org/third/contents.html"',
            '"example.org"',
            "contents_url must be an https address",
        ),
        ('["article"]', '"article"', "select.content has the wrong type"),
        ('["article"]', "[]", "select.content must name at least one"),
        ('["article"]', "[1]", "must be a list of strings"),
        ('["article"]', '["article[[["]', "a selector must be CSS"),
        ('"#toc a"', '""', "a selector must be CSS"),
        ('licence = "CC0"', 'licence = "CC0"\ncrawl_delay_s = -1', "crawl_delay_s must be 0..3600"),
        ('licence = "CC0"', "licence = 3", "licence has the wrong type"),
        ("[select]", '[leave_out]\nslugs = ["("]\n[select]', "leave_out takes regular expressions"),
        ("name =", "name", "not a readable TOML file"),
    ],
)
def test_a_faulty_book_is_a_readable_error(tmp_path, old, new, message):
    with pytest.raises(BookError) as caught:
        load_book(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "third.toml" in str(caught.value)


def test_a_file_that_is_no_text_is_a_readable_error(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BookError, match="not a readable TOML file"):
        load_book(tmp_path / "x.toml")


def test_contents_are_in_order_with_reasons_for_what_is_left_out(tmp_path):
    rules = '\n[leave_out]\nslugs = ["appendix-.*"]\ntitles = ["^colophon$"]\n'
    book = load_book(write(tmp_path, GOOD + rules))
    page = listing(
        ("contents.html", "Contents"),
        ("one.html", " 1.\n  One "),
        ("/third/two/#start", "2. Two"),
        ("two/", "Two again"),
        ("https://elsewhere.org/three", "Three"),
        ("appendix-a.html", "Appendix A"),
        ("last.html", "COLOPHON"),
        ("four\n.html", "4. <strong>Four</strong>"),
        ("", "Nowhere"),
        ("five.html", ""),
        ("mailto:a@b.c", "Mail"),
        ("javascript:void(0)", "Script"),
        ("http://[broken", "Broken"),
    )
    contents = read_contents(page, book)
    assert [(c.order, c.slug, c.title, c.url) for c in contents.chapters] == [
        (1, "one", "1. One", "https://example.org/third/one.html"),
        (2, "two", "2. Two", "https://example.org/third/two/"),
        (3, "four", "4. Four", "https://example.org/third/four.html"),
    ]
    assert [left.reason for left in contents.left_out] == [
        "the contents page itself",
        "listed before",
        "on another host than example.org",
        "slug rule 'appendix-.*'",
        "title rule '^colophon$'",
        *["a link without a title or an address"] * 5,
    ]


def test_slugs_that_collide_are_told_apart(tmp_path):
    book = load_book(write(tmp_path, GOOD))
    contents = read_contents(
        listing(("a/intro/", "A"), ("b/intro/", "B"), ("b/intro.html", "C")), book
    )
    slugs = [chapter.slug for chapter in contents.chapters]
    assert len(set(slugs)) == 3
    assert slugs[0] == "intro"


@pytest.mark.parametrize(
    "body", [b"", b"<p>Please wait</p>", listing(("", "x")), b"\x00\x01", b"<!--"]
)
def test_a_contents_page_without_chapters_is_said(tmp_path, body):
    with pytest.raises(ContentsUnreadable, match=r"'#toc a' found \d links and no chapter"):
        read_contents(body, load_book(write(tmp_path, GOOD)))


def test_a_page_with_thousands_of_links_is_no_contents_page(tmp_path):
    page = listing(*((f"{number}.html", str(number)) for number in range(2001)))
    with pytest.raises(ContentsUnreadable, match=r"found 2,001; make select\.links"):
        read_contents(page, load_book(write(tmp_path, GOOD)))


@pytest.mark.parametrize(
    ("url", "slug"),
    [
        ("https://a.b/sre-book/introduction/", "introduction"),
        ("https://a.b/Chapter%201.html", "Chapter-1"),
        ("https://a.b/..%2f..%2fetc%2fpasswd", "passwd"),
        ("https://a.b/..", "page"),
        ("https://a.b/", "page"),
        ("https://a.b/" + "x" * 300, "x" * 100),
    ],
)
def test_a_slug_is_a_safe_file_name(url, slug):
    assert slug_of(url) == slug


@pytest.mark.parametrize(
    ("href", "url"),
    [
        ("/b/", "sample://library/b/"),
        ("../c/", "sample://library/a/c/"),
        ("https://x.y/z#t", "https://x.y/z"),
        ("//other/z", "https://other/z"),
        ("sample://library/z", ""),
    ],
)
def test_relative_links_resolve_under_any_scheme(href, url):
    assert absolute_url("sample://library/a/b/", href) == url
