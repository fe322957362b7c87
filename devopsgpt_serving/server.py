"""uvicorn as this service runs it: its limits, and how it leaves."""

import asyncio
import logging
import signal
import threading
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from devopsgpt_serving.api.service import Service
from devopsgpt_serving.connections import Connections, affordable_connections
from devopsgpt_serving.http_protocol import HttpProtocol

log = logging.getLogger(__name__)

# Longer than the 60 s of load balancers and the 5 s of httpx (and so of OpenAI's client): a request
# sent over an idle connection in the moment that it is closed is lost. uvicorn's own 5 s lost one
# of 27,000 requests under load.
KEEP_ALIVE_S = 75

# What streams need for their last event, once the engine has given their sequences up.
FAREWELL_S = 2


class Server(uvicorn.Server):
    """uvicorn that is not ready for a while before it refuses connections, and ends what is still
    under way when the drain is over."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        """options: more of uvicorn's settings"""
        self.service: Service = app.state.service
        settings = self.service.settings
        admission = Connections(
            affordable_connections(settings.max_connections),
            lambda reason: self.service.metrics.closed_connections(reason).inc(),
        )
        protocol = partial(HttpProtocol, admission=admission, receive_s=settings.receive_s)
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(type[asyncio.Protocol], protocol),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=settings.drain_s + FAREWELL_S,
                **options,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: not ready, then drain. Ctrl-C skips the wait; a second one skips the
        drain."""
        delay = self.service.settings.shutdown_delay_s if sig == signal.SIGTERM else 0.0
        if self.service.draining:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            return
        self.service.draining = True
        _later(delay, self._stop_accepting)
        _later(delay + self.service.settings.drain_s, self.service.engine.stop)

    def _stop_accepting(self) -> None:
        self.should_exit = True


def _later(seconds: float, action: Any) -> None:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
