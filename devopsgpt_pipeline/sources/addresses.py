"""Addresses as pages, answers and books write them, however wrongly. Knows no network."""

import re
from urllib.parse import SplitResult, urldefrag, urljoin, urlsplit, urlunsplit

MAX_URL_CHARS = 8_000  # RFC 9110 asks everybody for at least that


def split_address(url: str) -> SplitResult:
    """As urlsplit; an empty one for what is no address, which urlsplit tells only in part."""
    try:
        address = urlsplit(url)
        _ = address.port
    except ValueError:
        return SplitResult("", "", "", "", "")
    return address


def absolute_url(base: str, href: str) -> str:
    """An absolute address without fragment; "" where href is not an address, or longer than servers
    take. Line breaks in an href are dropped."""
    if len(href) > MAX_URL_CHARS:
        return ""
    scheme, _, rest = base.partition("://")
    try:
        # urljoin knows relative links for a fixed list of schemes, and sample:// is not in it
        joined = urldefrag(urljoin(f"https://{rest}", re.sub(r"[\t\r\n]", "", href).strip())).url
    except ValueError:
        return ""
    address = split_address(joined)
    if address.scheme not in ("https", "http") or not href.strip():
        return ""
    if address.netloc == urlsplit(base).netloc and not re.match(r"\s*https?:", href, re.IGNORECASE):
        return urlunsplit(address._replace(scheme=scheme))
    return joined
