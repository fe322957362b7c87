"""One page of HTML: its bytes to characters, its characters to a tree.

Stands between the fetched bytes and everything that reads them. Knows no book and no network. Any
bytes are parsed, however broken, in time linear in their number: libxml2 is given only pages that
it reads in linear time.
"""

import codecs
import re
from collections import Counter
from typing import Any

from lxml import etree

Element = etree._Element
"""lxml has no public name for the type of an element."""
MAX_DEPTH = 500
"""Open elements. libxml2 stops reading at 2,048, and its search for a tag to close walks all of
them."""
MAX_ATTRIBUTES = 200
"""Of one element. libxml2's time grows with the square of their number: 1 s for 40,000."""
MAX_TAGS = 200_000
"""Of a page, opening and closing. 5 MB of <p>x are 1.3 million elements and took 17 s and 572 MB;
190,000 take 2.6 s and 100 MB."""
MAX_TAG_CHARS = 2_000
"""Of one tag in a page that breaks a limit; a longer one loses its attributes."""

FEED_BYTES = 16 * 1024

META_CHARSET = re.compile(
    rb"<meta[^<>]{0,200}?charset\s*+=\s*+[\"']?\s*+([\w.:-]{1,40})", re.IGNORECASE
)
META_WITHIN_BYTES = 4096
CLOSING_BR = re.compile(r"</br\s*/?>", re.IGNORECASE)
# *+ keeps what it has: a name's letters given back one by one took quadratic time
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)([^<>]*+)>")
NOT_TEXT = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")


DECLARATION = re.compile(r"<[!?][^<>]*>")


def names(words: str) -> frozenset[str]:
    """The names of a list of words."""
    return frozenset(words.split())


VOID = names("area base br col embed hr img input link meta param source track wbr")


# Of the web's Encoding Standard, as Python calls them. Python has more (punycode, undefined), and
# some take quadratic time or raise errors of their own.
CHARSETS = names(
    "utf-8 utf-16-le utf-16-be cp866 iso8859-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 "
    "iso8859-7 iso8859-8 iso8859-10 iso8859-13 iso8859-14 iso8859-15 iso8859-16 koi8-r koi8-u "
    "mac-roman mac-cyrillic cp874 cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 "
    "gbk gb2312 gb18030 big5 big5hkscs euc_jp iso2022_jp shift_jis euc_kr cp949 ascii utf-16"
)


class TooManyTags(ValueError):
    """A page with more tags than a chapter can have."""


class Undecodable(ValueError):
    """Bytes that no declared character set reads."""


def decode_page(body: bytes, charset: str | None = None) -> str:
    """The page's characters.

    A byte order mark decides; then UTF-8 where all bytes are valid, since text in another set
    almost never is by chance; then what the server declared (charset), then what the page itself
    declares.
    raises: Undecodable, with the first byte that does not fit
    """
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16", errors="replace")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"byte 0x{body[error.start]:02x} at {error.start}"
    declared = [name for name in (charset, meta_charset(body)) if name]
    for name in declared:
        text = _decode(body, name)
        if text is not None:
            return text
    named = " and ".join(declared) or "no character set"
    raise Undecodable(
        f"the page must be UTF-8 or what it declares; it declares {named}, and {fault} does not fit"
    )


def meta_charset(body: bytes) -> str | None:
    """The character set in the page's meta tag, of its first 4 KiB."""
    found = META_CHARSET.search(body[:META_WITHIN_BYTES])
    return found.group(1).decode("ascii", errors="ignore").lower() if found else None


def _decode(body: bytes, charset: str) -> str | None:
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):  # ValueError: a null byte in it
        return None
    if name not in CHARSETS:
        return None
    # on the web this label means windows-1252, whose 0x80-0x9f are quotes and dashes
    if name == "iso8859-1":
        name = "cp1252"
    try:
        return body.decode(name)
    except (UnicodeDecodeError, LookupError):
        return None


def refuse_too_many_tags(text: str) -> None:
    """Nothing. raises: TooManyTags"""
    count = text.count("<")
    if count > MAX_TAGS:
        raise TooManyTags(f"a page may have {MAX_TAGS:,} tags, got {count:,}; is it a page?")


def parse_page(text: str) -> Element | None:
    """The tree of a page, without comments; None where there is no element at all."""
    # browsers read </br> as <br>; libxml2 glues the words
    text = CLOSING_BR.sub("<br>", NOT_TEXT.sub("", text))
    if text.count("<") > MAX_TAGS or not _within_limits(text):
        text = _flattened(text)
    return _tree(text)


def _tree(text: str) -> Element | None:
    parser = etree.HTMLParser(
        encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True, no_network=True
    )
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError:  # lxml's word for a document without any element
        return None


class _LimitReached(Exception):
    pass


class _Limits:
    """A parser target that stops the parse at the first element beyond a limit."""

    def __init__(self) -> None:
        self.depth = 0

    def start(self, tag: Any, attrib: dict[Any, Any]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH or len(attrib) > MAX_ATTRIBUTES:
            raise _LimitReached

    def end(self, tag: Any) -> None:
        self.depth -= 1

    def data(self, data: Any) -> None:
        pass

    def comment(self, text: Any) -> None:
        pass

    def close(self) -> None:
        return None


def _within_limits(text: str) -> bool:
    # 200 MB/s without a tree, and it ends at the first offence: reading twice costs less than one
    # bad page. In pieces, since libxml2 reads what it was given to its end before it hands on what
    # the target raised.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, target=_Limits())
    data = text.encode()
    try:
        for at in range(0, len(data), FEED_BYTES):
            parser.feed(data[at : at + FEED_BYTES])
        parser.close()
    except _LimitReached:
        return False
    except etree.XMLSyntaxError:
        return True
    return True


def _flattened(text: str) -> str:
    """The same text with at most MAX_TAGS / 2 elements that nest at most MAX_DEPTH / 2 deep, each
    closed where it ends.

    A < that begins no tag becomes text, or libxml2 might read an endless tag there.
    """
    text = _without_comments(text)
    out: list[str] = []
    open_names: list[str] = []
    counts: Counter[str] = Counter()
    at = elements = 0
    for tag in TAG.finditer(text):
        if elements >= MAX_TAGS // 2:
            text = text[:at] + TAG.sub(" ", text[at:])
            break
        out.append(text[at : tag.start()].replace("<", "&lt;"))
        at = tag.end()
        closing, name, attributes = tag.group(1), tag.group(2).lower(), tag.group(3)
        if closing:
            while counts[name]:
                last = open_names.pop()
                counts[last] -= 1
                out.append(f"</{last}>")
                if last == name:
                    break
        elif len(open_names) < MAX_DEPTH // 2 or name in VOID:
            elements += 1
            out.append(f"<{name}{attributes if len(attributes) <= MAX_TAG_CHARS else ''}>")
            if name not in VOID:
                open_names.append(name)
                counts[name] += 1
        else:
            out.append(" ")
    out.append(text[at:].replace("<", "&lt;"))
    return "".join(out)


def _without_comments(text: str) -> str:
    out: list[str] = []
    at = 0
    while (start := text.find("<!--", at)) >= 0:
        end = text.find("-->", start + 4)
        out.append(text[at:start])
        at = end + 3 if end >= 0 else len(text)
    out.append(text[at:])
    return DECLARATION.sub("", "".join(out))
