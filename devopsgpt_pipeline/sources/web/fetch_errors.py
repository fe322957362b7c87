"""What can stop a page from coming."""


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
