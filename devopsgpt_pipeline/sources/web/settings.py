"""How the fetcher behaves on the web, every number with its unit."""

from dataclasses import dataclass

AGENT = "DevopsGPT"
AGENT_VERSION = "0.1"


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """How to behave on the web."""

    contact: str = ""
    """An address for the site's owner, sent in the User-Agent: a mail address or a page."""
    delay_s: float = 1.0
    """Least seconds between two requests to a host, where robots.txt names no Crawl-delay."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    """Longest silence while the server answers."""
    page_timeout_s: float = 120.0
    """Longest time for one page, from the connection to its last byte, redirects and further tries
    included, our own pauses not."""
    retries: int = 4
    """Further tries after 429, 503 or a fault of the connection."""
    backoff_s: float = 2.0
    """Before the first further try; doubled for each next one. Retry-After overrides it."""
    max_retry_after_s: float = 300.0
    """A site that asks for a longer wait is left alone until the next scrape."""
    max_page_bytes: int = 5 * 1024 * 1024
    """Of the page after decompression."""
    max_crawl_delay_s: float = 60.0
    """A site that asks for more is refused, with what it asks."""
    allow_http: bool = False
    """Plain http as well as https, for a site on one's own machine."""

    @property
    def user_agent(self) -> str:
        return f"{AGENT}/{AGENT_VERSION}" + (f" (+{self.contact})" if self.contact else "")

    def __post_init__(self) -> None:
        for name in ("delay_s", "backoff_s", "max_retry_after_s", "max_crawl_delay_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 s or more, got {getattr(self, name)}")
        for name in ("connect_timeout_s", "read_timeout_s", "page_timeout_s", "max_page_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.retries < 0:
            raise ValueError(f"retries must be 0 or more, got {self.retries}")
        if not self.contact.isprintable() or not self.contact.isascii():
            raise ValueError(f"contact must be printable ASCII, got {self.contact!r}")
