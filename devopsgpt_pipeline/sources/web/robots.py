"""What a site's robots.txt says to us."""

from protego import Protego


class RobotsRules:
    """A parsed robots.txt, as it applies to one user agent. No bytes: no rules."""

    def __init__(self, body: bytes, agent: str) -> None:
        self._rules = Protego.parse(body.decode("utf-8", errors="replace").removeprefix("\ufeff"))
        self._agent = agent

    def allows(self, url: str) -> bool:
        """Whether the address may be fetched."""
        return bool(self._rules.can_fetch(url, self._agent))

    @property
    def crawl_delay_s(self) -> float | None:
        """Seconds that the site asks between requests, or None. Request-rate counts as well, the
        slower wins."""
        asked = [self._rules.crawl_delay(self._agent)]
        rate = self._rules.request_rate(self._agent)
        if rate is not None and rate.requests:
            asked.append(rate.seconds / rate.requests)
        return max((float(delay) for delay in asked if delay is not None), default=None)
