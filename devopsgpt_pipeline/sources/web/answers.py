"""What the parts of an HTTP answer mean: redirects, Retry-After, content types. Knows no
connection."""

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urlsplit

from devopsgpt_pipeline.sources.pages.contents import resolve
from devopsgpt_pipeline.sources.web.fetch_errors import FetchRefused

Headers = Mapping[str, str]
"""Keys in any case, as requests gives them."""


def redirected(at: str, headers: Headers, asked: str) -> str:
    """Where an answer sends us. raises: FetchRefused for another host"""
    target = resolve(at, headers.get("Location", ""))
    here, there = urlsplit(at), urlsplit(target)
    same_port = here.port == there.port or (here.port in (None, 80) and there.port in (None, 443))
    if not target or here.hostname != there.hostname or not same_port:
        raise FetchRefused(
            asked,
            f"redirected to {target or 'nowhere'}, and only redirects on the same host are "
            "followed; "
            "if the book has moved, change contents_url in its TOML file",
        )
    return target


def retry_after_s(headers: Headers) -> float | None:
    """Retry-After in seconds, from a number or a date; None where there is none that can be
    read."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - time.time())


def charset_of(parameters: str) -> str | None:
    """The character set among a content type's parameters."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip("\"'").lower() or None
    return None


def status_words(status: int) -> str:
    """A status with its name."""
    try:
        return f"status {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"status {status}"


def fault_words(error: Exception) -> str:
    """A fault's kind and the beginning of its message."""
    return f"{type(error).__name__}: {str(error)[:160]}"
