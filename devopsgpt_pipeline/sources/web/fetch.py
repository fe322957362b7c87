"""One page from the web, politely: robots.txt, a pause between requests, limits on everything,
honest errors.

Stands between the books and the archive. Knows no book and writes no page; what it refuses or fails
to get, it raises.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from devopsgpt_pipeline.sources.addresses import split_address
from devopsgpt_pipeline.sources.html import (
    TooManyTags,
    Undecodable,
    decode_page,
    refuse_too_many_tags,
)
from devopsgpt_pipeline.sources.sample_site.transport import SampleSite
from devopsgpt_pipeline.sources.web.answers import (
    FetchFailed,
    FetchRefused,
    Headers,
    charset_of,
    fault_words,
    redirected,
    retry_after_s,
    status_words,
    usable_validator,
)
from devopsgpt_pipeline.sources.web.deadline import Deadline, Watch, WatchedAdapter
from devopsgpt_pipeline.sources.web.politeness import Pace, RobotsRules
from devopsgpt_pipeline.sources.web.settings import AGENT, FetchSettings

PAGE_TYPES = ("text/html", "application/xhtml+xml")
MAX_REDIRECTS = 5
MAX_ROBOTS_BYTES = 512 * 1024  # RFC 9309 asks for at least 500 KiB
ROBOTS_AGE_S = 24 * 3600.0  # RFC 9309: no older copy than a day
CHUNK_BYTES = 64 * 1024
RETRIED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
REDIRECTS = (301, 302, 303, 307, 308)
CONNECTION_FAULTS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)
# urllib3's own and ValueError: requests lets some of them through
ODD_ANSWERS = (requests.RequestException, HTTPError, ValueError)


@dataclass(frozen=True)
class Page:
    """A page as served. body: decompressed bytes; fetched_at: UTC, ISO 8601."""

    url: str
    body: bytes
    charset: str | None
    etag: str | None
    last_modified: str | None
    fetched_at: str


@dataclass(frozen=True)
class NotModified:
    """The site says that the page is the one whose validators were sent."""

    url: str


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Headers
    body: bytes


class _Session(requests.Session):
    """A session that leaves redirects alone: requests would read the whole body of one, however
    large, and parse its address, also where it is told not to follow."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, for every answer."""
        return


class Fetcher:
    """Gets pages. One for a run; use it as a context manager. Not for several threads."""

    def __init__(
        self,
        settings: FetchSettings | None = None,
        pace_folder: Path | None = None,
        library: SampleSite | None = None,
    ) -> None:
        self.settings = settings or FetchSettings()
        self.pace = Pace(pace_folder)
        self.requests = 0
        """Requests sent, robots.txt and repeated tries included."""
        self.body_bytes = 0
        """Bytes of bodies read, after decompression."""
        self._robots: dict[str, tuple[float, RobotsRules]] = {}
        self._watch = Watch()
        self._session = _Session()
        self._session.headers.update(
            {
                "User-Agent": self.settings.user_agent,
                "Accept": "text/html, application/xhtml+xml",
                "Accept-Encoding": "gzip, deflate",
            }
        )
        # or requests sends what ~/.netrc has for the host
        self._session.auth = lambda request: request
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, WatchedAdapter(self._watch))
        self._session.mount("sample://", library or SampleSite())

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()
        self._watch.close()

    def get(
        self,
        url: str,
        etag: str | None = None,
        last_modified: str | None = None,
        delay_s: float | None = None,
    ) -> Page | NotModified:
        """One page, or NotModified where the site still has the one that etag and last_modified
        belong to.

        delay_s: least pause before the request in place of the settings'; robots.txt may ask for
        more
        raises: FetchRefused for what our rules or the site's forbid, FetchFailed for what did not
        work
        """
        sent = {"If-None-Match": etag, "If-Modified-Since": last_modified}
        conditional = {name: value for name, value in sent.items() if usable_validator(value)}
        at, deadline = url, Deadline(self.settings.page_timeout_s)
        for _ in range(MAX_REDIRECTS + 1):
            self._allow(at)
            answer = self._ask(
                at, conditional, self.delay_for(at, delay_s), self.settings.max_page_bytes, deadline
            )
            if answer.status not in REDIRECTS:
                return self._page(at, answer, conditional)
            at = redirected(at, answer.headers, url)
        raise FetchFailed(
            url, f"more than {MAX_REDIRECTS} redirects, the last to {at}; is it a loop?"
        )

    def delay_for(self, url: str, delay_s: float | None = None) -> float:
        """Seconds to pause between two requests to the address's host.

        raises: FetchRefused for a Crawl-delay above the settings' limit, or where robots.txt cannot
        be had
        """
        asked = self._rules(url).crawl_delay_s
        if asked is not None and asked > self.settings.max_crawl_delay_s:
            limit = self.settings.max_crawl_delay_s
            raise FetchRefused(
                url,
                f"robots.txt asks for {asked:g} s between requests, the limit is {limit:g} s; "
                "raise max_crawl_delay_s",
            )
        if delay_s is not None:
            return max(delay_s, asked or 0.0)
        return self.settings.delay_s if asked is None else asked

    def _allow(self, url: str) -> None:
        address = split_address(url)
        schemes = ("https", "sample", *(("http",) if self.settings.allow_http else ()))
        if address.scheme not in schemes or not address.hostname:
            raise FetchRefused(
                url,
                "only https addresses are fetched, "
                "and http where the book's contents_url says http",
            )
        if not self._rules(url).allows(url):
            raise FetchRefused(
                url,
                f"robots.txt forbids it to {AGENT}; leave the chapter out in the book's TOML file",
            )

    def _rules(self, url: str) -> RobotsRules:
        address = urlsplit(url)
        origin = f"{address.scheme}://{address.netloc}"
        age, rules = self._robots.get(origin, (0.0, None))
        if rules is None or time.monotonic() - age > ROBOTS_AGE_S:
            rules = self._fetch_rules(f"{origin}/robots.txt")
            self._robots[origin] = (time.monotonic(), rules)
        return rules

    def _fetch_rules(self, url: str) -> RobotsRules:
        """RFC 9309: a 4xx means that there are no rules, anything else that cannot be read means
        hands off."""
        at, deadline = url, Deadline(self.settings.page_timeout_s)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._ask(at, {}, self.settings.delay_s, MAX_ROBOTS_BYTES, deadline)
                if answer.status in REDIRECTS:
                    at = redirected(at, answer.headers, url)
                elif answer.status == HTTPStatus.OK:
                    return _rules_in(answer.body, url)
                elif 400 <= answer.status < 500 and answer.status != HTTPStatus.TOO_MANY_REQUESTS:
                    return RobotsRules(b"", AGENT)
                else:
                    raise FetchFailed(url, status_words(answer.status), answer.status)
        except (FetchFailed, FetchRefused) as error:
            raise FetchRefused(
                url, f"robots.txt cannot be read ({error.reason}), so nothing is fetched; try later"
            ) from error
        raise FetchRefused(
            url, f"robots.txt redirects more than {MAX_REDIRECTS} times, so nothing is fetched"
        )

    def _ask(
        self, url: str, headers: dict[str, str], delay_s: float, limit: int, deadline: Deadline
    ) -> _Answer:
        """One answer, after as many tries as the settings allow."""
        for attempt in range(self.settings.retries + 1):
            wait_s, fault = self.settings.backoff_s * 2**attempt, None
            try:
                answer = self._ask_once(url, headers, delay_s, limit, deadline)
                if answer.status not in RETRIED:
                    return answer
                asked_s = retry_after_s(answer.headers)
                wait_s = wait_s if asked_s is None else asked_s
                reason, status = status_words(answer.status), answer.status
            except CONNECTION_FAULTS as error:
                reason, status, fault = f"the connection failed ({fault_words(error)})", None, error
            if wait_s > self.settings.max_retry_after_s:
                raise FetchFailed(
                    url, f"{reason}, and it asks to wait {wait_s:.0f} s; scrape again later", status
                )
            if attempt < self.settings.retries:
                time.sleep(wait_s)
        raise FetchFailed(
            url, f"{reason}, after {self.settings.retries + 1} tries", status
        ) from fault

    def _ask_once(
        self, url: str, headers: dict[str, str], delay_s: float, limit: int, deadline: Deadline
    ) -> _Answer:
        with self.pace.turn(urlsplit(url).netloc, delay_s):
            fault: Exception | None = None
            if not deadline.over:
                try:
                    with self._watch.running(deadline):
                        answer = self._answer(url, headers, limit)
                except ODD_ANSWERS as error:
                    fault = error
            # asked first: what a connection that was shut down looks like is anything, a whole page
            # among it
            if deadline.over:
                seconds = self.settings.page_timeout_s
                raise FetchFailed(
                    url, f"not finished after {seconds:g} s; raise page_timeout_s"
                ) from fault
            # a certificate is not better at the next try
            if isinstance(fault, requests.exceptions.SSLError):
                raise FetchFailed(url, f"no trusted connection ({fault_words(fault)})") from fault
            if isinstance(fault, CONNECTION_FAULTS):
                raise fault
            if fault is not None:
                raise FetchFailed(
                    url, f"the answer cannot be read ({fault_words(fault)})"
                ) from fault
            return answer

    def _answer(self, url: str, headers: dict[str, str], limit: int) -> _Answer:
        self.requests += 1
        timeout = (self.settings.connect_timeout_s, self.settings.read_timeout_s)
        with self._session.get(
            url, headers=headers, stream=True, allow_redirects=False, timeout=timeout
        ) as response:
            whole = response.status_code == HTTPStatus.OK
            body = self._read(response, url, limit) if whole else b""
            return _Answer(response.status_code, response.headers, body)

    def _read(self, response: requests.Response, url: str, limit: int) -> bytes:
        body = bytearray()
        for chunk in response.iter_content(CHUNK_BYTES):
            body += chunk
            self.body_bytes += len(chunk)
            if len(body) > limit:
                raise FetchFailed(
                    url,
                    f"larger than the limit of {limit:,} bytes after decompression; is it a page?",
                )
        return bytes(body)

    def _page(self, url: str, answer: _Answer, conditional: dict[str, str]) -> Page | NotModified:
        if answer.status == HTTPStatus.NOT_MODIFIED and conditional:
            return NotModified(url)
        if answer.status != HTTPStatus.OK:
            raise FetchFailed(url, status_words(answer.status), answer.status)
        if not answer.body.strip():
            raise FetchFailed(url, "an empty page with status 200", answer.status)
        kind, _, parameters = answer.headers.get("Content-Type", "").partition(";")
        if kind.strip().lower() not in PAGE_TYPES and (
            kind or not answer.body.lstrip().startswith(b"<")
        ):
            raise FetchFailed(
                url,
                f"content type must be {' or '.join(PAGE_TYPES)}, got {kind or 'none'!r}",
                answer.status,
            )
        charset = charset_of(parameters)
        try:
            refuse_too_many_tags(decode_page(answer.body, charset))
        except (Undecodable, TooManyTags) as error:
            raise FetchFailed(url, str(error), answer.status) from error
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Page(
            url,
            answer.body,
            charset,
            answer.headers.get("ETag"),
            answer.headers.get("Last-Modified"),
            now,
        )


def _rules_in(body: bytes, url: str) -> RobotsRules:
    try:
        return RobotsRules(body, AGENT)
    except ValueError as error:
        raise FetchFailed(url, str(error)) from error
