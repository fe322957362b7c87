"""Text token by token."""

import pytest

from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_serving.engine.detokenizer import Detokenizer, token_text

TOKENIZER = Tokenizer.plain_bytes()


def pieces(text, stop=()):
    stream = Detokenizer(TOKENIZER, stop)
    out = []
    for token in TOKENIZER.encode(text):
        out.append(stream.push(token))
        if stream.stopped:
            break
    return [*out, stream.flush()]


def test_characters_come_whole():
    assert pieces("é🙂") == ["", "é", "", "", "", "🙂", ""]


def test_an_unfinished_character_is_told_at_the_end():
    stream = Detokenizer(TOKENIZER)
    assert [stream.push(0xE2), stream.push(0x80), stream.flush()] == ["", "", "\ufffd"]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\n\ntwo", ("\n\n",), "one"),
        ("one\ntwo", ("\n\n",), "one\ntwo"),
        ("ababac", ("abac",), "ab"),
        ("xSTOPy", ("STOP", "TO"), "xS"),
        ("x🙂y", ("🙂",), "x"),
        ("ends with a beginning\n", ("\n\n",), "ends with a beginning\n"),
        ("stop", ("stop",), ""),
    ],
)
def test_nothing_of_a_stop_string_is_released(text, stop, expected):
    assert "".join(pieces(text, stop)) == expected


def test_text_that_may_become_a_stop_string_waits():
    assert pieces("a\nb", ("\n\n",)) == ["a", "", "\nb", ""]


def test_tokens_are_told_as_text_or_bytes():
    assert [token_text(TOKENIZER, token) for token in (97, 0xE2, 256)] == [
        "a",
        "bytes:\\xe2",
        "<|endoftext|>",
    ]
