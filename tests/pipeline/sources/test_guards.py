"""Each guard passing and failing, without a site."""

import pytest

from devopsgpt_pipeline.sources.changes import Chapter, compare
from devopsgpt_pipeline.sources.guards import GUARDS, Corpus, judge
from devopsgpt_pipeline.sources.pages.chapter import Content
from devopsgpt_pipeline.sources.pages.html_to_blocks import Block
from devopsgpt_pipeline.sources.pages.mojibake import mojibake_in


def chapter(slug, text="x" * 1000, whole=True, kind="paragraph"):
    content = None if text is None else Content((Block(kind, f"{slug} {text}"),))
    return Chapter(slug, slug.title(), content, whole)


BOOK = [chapter(slug) for slug in "abcdefghij"]


def failing(before, after, listed=10):
    return [result.name for result in judge(Corpus(before, after, listed)) if not result.passed]


def test_an_unchanged_book_passes_every_guard():
    results = judge(Corpus(BOOK, BOOK, 10))
    assert [result.name for result in results] == [guard.__name__ for guard in GUARDS]
    assert all(result.passed for result in results)


def test_a_first_book_passes_every_guard():
    assert failing([], BOOK) == []


@pytest.mark.parametrize(("kept", "expected"), [(8, []), (7, ["lost_chapters", "lost_text"])])
def test_a_fifth_may_go_and_no_more(kept, expected):
    assert failing(BOOK, BOOK[:kept]) == expected


def test_a_first_scrape_that_missed_a_quarter_fails():
    assert failing([], BOOK[:7]) == ["lost_chapters"]


def test_an_empty_corpus_fails():
    assert failing([], [], 0) == ["lost_chapters"]


def test_lost_text_is_noticed_where_no_chapter_is_lost():
    thin = [chapter(slug, "x" * 700) for slug in "abcdefghij"]
    assert failing(BOOK, thin) == ["lost_text"]


def test_a_page_without_content_fails():
    after = [*BOOK[:9], chapter("j", None)]
    assert failing(BOOK, after) == ["missing_content", "shrunken_chapters"]


def test_two_chapters_that_say_the_same_fail():
    double = Chapter("k", "K", BOOK[0].content)
    (result,) = [result for result in judge(Corpus(BOOK, [*BOOK, double], 11)) if not result.passed]
    assert result.name == "duplicate_chapters"
    assert "k = a" in result.message


def test_mojibake_fails_in_prose_and_not_in_a_listing():
    broken = "It’s".encode().decode("cp1252")
    assert failing(BOOK, [*BOOK[1:], chapter("a", "x" * 1000 + broken)]) == ["mojibake"]
    assert failing(BOOK, [*BOOK[1:], chapter("a", "x" * 1000 + broken, kind="listing")]) == []


def test_a_chapter_below_half_of_itself_fails_and_a_short_one_may():
    assert failing(BOOK, [*BOOK[1:], chapter("a", "x" * 400)]) == ["shrunken_chapters"]
    part = [*BOOK, chapter("part", "x" * 100)]
    assert failing(part, [*BOOK, chapter("part", "x")]) == []


def test_a_cut_off_page_fails_unless_the_site_never_closes_its_pages():
    cut = [chapter("a", whole=False), *BOOK[1:]]
    assert failing(BOOK, cut) == ["cut_off_pages"]
    assert failing(BOOK, [chapter(slug, whole=False) for slug in "abcdefghij"]) == []


def test_messages_name_at_most_five():
    after = [chapter(slug, None) for slug in "abcdefgh"]
    (result,) = [
        result for result in judge(Corpus([], after, 8)) if result.name == "missing_content"
    ]
    assert result.message.endswith("a, b, c, d, e and 3 more")
    assert result.numbers == {"chapters": 8}


@pytest.mark.parametrize(
    "text", ["don’t", "“quoted” — café", "naïve… 50–60 %", "× 10⁹ → ½", "Ünïcödé", "日本語"]
)
def test_sound_text_is_no_mojibake_and_its_double_decoding_is(text):
    assert mojibake_in(text) == []
    assert mojibake_in(f"{text} “café”—and") == []
    if text != "日本語":
        assert mojibake_in(text.encode().decode("latin-1"))


def test_a_replacement_character_is_mojibake():
    assert mojibake_in("caf\ufffd au lait") == ["caf\ufffd au lait"]


def test_moves_are_told_from_insertions():
    a, b, c, d = (chapter(slug) for slug in "abcd")
    assert {row.slug: row.change for row in compare([a, b, c], [d, a, b, c])} == {
        "d": "added",
        "a": "unchanged",
        "b": "unchanged",
        "c": "unchanged",
    }
    assert [row.slug for row in compare([a, b, c, d], [b, c, d, a]) if row.change == "moved"] == [
        "a"
    ]


def test_a_chapter_of_thousands_of_equal_lines_is_compared_quickly():
    old = chapter("a", "x\n" * 4_000, kind="listing")
    new = chapter("a", "x\n" * 3_990 + "y\n" * 9, kind="listing")
    (row,) = compare([old], [new])
    assert row.diff
    (row,) = compare([old], [chapter("a", "x\n" * 9_000, kind="listing")])
    assert row.diff == "too long to compare: 4,001 lines before, 9,001 now"


def test_a_chapter_rewritten_at_length_is_compared_quickly():
    old = chapter("a", " ".join(f"Old sentence {n} about the thing." for n in range(3000)))
    new = chapter("a", " ".join(f"New clause {n} on the matter." for n in range(3000)))
    (row,) = compare([old], [new])
    assert row.diff.endswith("more lines")
    assert (row.gained, row.lost) == (
        len(new.content.blocks[0].text),
        len(old.content.blocks[0].text),
    )
