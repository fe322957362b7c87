"""What the parts of an HTTP answer mean: links, redirects, Retry-After, content types, and the
errors of an answer that is no page. Knows no connection."""

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TypeGuard
from urllib.parse import urlsplit

from devopsgpt_pipeline.sources.addresses import absolute_url

MAX_VALIDATOR_CHARS = 1_000

Headers = Mapping[str, str]
"""Keys in any case, as requests gives them."""


class FetchError(Exception):
    """A page that was not fetched. url and reason say which and why."""

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(url, reason, status)
        self.url, self.reason, self.status = url, reason, status

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class FetchRefused(FetchError):
    """The site's rules or ours forbid it; trying again changes nothing before a rule does."""


class FetchFailed(FetchError):
    """The site or the network did not deliver; a later try may."""


def redirected(at: str, headers: Headers, asked: str) -> str:
    """Where an answer sends us. raises: FetchRefused for another host"""
    target = absolute_url(at, headers.get("Location", ""))
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
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, when.timestamp() - time.time())
    except (ValueError, OverflowError):  # no date, or one after the year 9999
        return None


def usable_validator(value: str | None) -> TypeGuard[str]:
    """Whether an ETag or a Last-Modified can be sent back as it came."""
    return bool(
        value
        and value.isascii()
        and value.isprintable()
        and value.strip() == value
        and len(value) <= MAX_VALIDATOR_CHARS
    )


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
