"""What the routes share: settings, engine, follower, metrics, and whether the service is
stopping."""

import logging
import time
from dataclasses import dataclass, field

from fastapi import Request

from devopsgpt_serving.engine.backlog import Backlog
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.loaded_model import Scheduler
from devopsgpt_serving.engine.mailbox import Mailbox
from devopsgpt_serving.errors import ApiError
from devopsgpt_serving.metrics import Metrics
from devopsgpt_serving.settings import Settings
from devopsgpt_serving.tracing import Tracing
from devopsgpt_serving.versions.alias_follower import AliasFollower

log = logging.getLogger(__name__)


@dataclass
class Service:
    """One running service."""

    settings: Settings
    engine: Engine
    follower: AliasFollower
    metrics: Metrics
    backlog: Backlog
    tracing: Tracing
    mailbox: Mailbox
    draining: bool = False
    ignored_fields: set[str] = field(default_factory=set)
    """Unknown fields of requests that the log has named."""

    def scheduler(self) -> Scheduler:
        """Where new prompts go. raises: ApiError 503 while there is no model, or the service
        stops"""
        if self.draining:
            raise ApiError(
                503, "draining", "the service is stopping; send the request to another replica"
            )
        scheduler = self.engine.current
        if scheduler is None:
            raise ApiError(
                503, "no_model", f"no model is loaded yet: {self.follower.state.problem}"
            )
        return scheduler

    @property
    def problem(self) -> str | None:
        """Why the service cannot answer; None where it can."""
        if self.draining:
            return "the service is stopping"
        if not self.engine.alive:
            return "the engine's thread ended; restart the service"
        return (
            f"no model is loaded yet: {self.follower.state.problem}"
            if self.engine.current is None
            else None
        )

    async def present_problem(self) -> str | None:
        """`problem`, or why nothing is computed now: a vLLM that is down, or still starts."""
        scheduler = self.engine.current
        return self.problem or (None if scheduler is None else await scheduler.trouble())

    def parses_special(self, asked: bool | None) -> bool:
        """Whether <|endoftext|> in a text is the special token. asked: what the request says"""
        return self.settings.parse_special if asked is None else asked

    def deadline(self) -> float:
        """When a request that arrives now is given up, in time.monotonic() seconds."""
        return time.monotonic() + self.settings.deadline_s

    def log_prompt(self, request: Request, prompt: object) -> None:
        """Log what a user wrote, where the operator asked for it."""
        if self.settings.log_prompts:
            log.info("prompt", extra={"request_id": request.state.request_id, "prompt": prompt})


def service_of(request: Request) -> Service:
    """The service that a request came to; a FastAPI dependency."""
    service: Service = request.app.state.service
    return service
