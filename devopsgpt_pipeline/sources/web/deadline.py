"""The time that one page may take, whatever its server does with it.

A read timeout starts again at every byte, so a server that drips holds its reader for ever, inside
a TLS handshake and inside headers, too. Here a timer shuts the connection down, and whoever waits
for it wakes up. Knows no page.
"""

import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

AT_LEAST_S = 0.001
"""Of a timeout: 0 would mean that the socket does not wait at all."""


class Deadline:
    """The time left for one page. It runs while the site is asked, not in pauses of our own."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds
        self.over = seconds <= 0


class Watch:
    """The connections of one fetcher, and the timer that shuts them down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[HTTPConnection, socket.socket] = {}
        self._deadline = Deadline(0.0)
        self._until = 0.0

    @contextmanager
    def running(self, deadline: Deadline) -> Iterator[None]:
        """Count the block's time. After the deadline no connection of the fetcher reads on."""
        started = time.monotonic()
        with self._lock:
            self._deadline, self._until = deadline, started + deadline.left_s
        timer = threading.Timer(deadline.left_s, self._shut_down, [deadline])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            deadline.left_s -= time.monotonic() - started
            with self._lock:
                deadline.over = deadline.over or deadline.left_s <= 0
            # not before: http.client closes a connection first and reads the body then
            self.drop([connection for connection in self._held if connection.sock is None])

    def connect(self, host: str, port: int, timeout_s: float, options: Any) -> socket.socket:
        """A connection to the first address of a host that answers. raises: OSError"""
        fault: OSError = OSError(f"no address for {host}")
        # as many addresses as the site's name server likes to give
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no connection to {host} in the page's time")
            opened = socket.socket(family, kind, protocol)
            try:
                for option in options or ():
                    opened.setsockopt(*option)
                opened.settimeout(max(AT_LEAST_S, min(timeout_s, left_s)))
                opened.connect(address)
                return opened
            except OSError as error:
                opened.close()
                fault = error
        raise fault

    def hold(self, connection: HTTPConnection, opened: socket.socket) -> None:
        """Keep a second handle of a connection; TLS takes the first one for itself."""
        self.drop([connection])
        handle = opened.dup()
        with self._lock:
            self._held[connection] = handle
            if self._deadline.over:
                _shut_down(handle)

    def drop(self, connections: Iterable[HTTPConnection]) -> None:
        """Close the handles of connections, where there are any."""
        with self._lock:
            for connection in connections:
                if (handle := self._held.pop(connection, None)) is not None:
                    handle.close()

    def close(self) -> None:
        """Close every handle."""
        self.drop(list(self._held))

    def _shut_down(self, deadline: Deadline) -> None:
        with self._lock:
            if deadline is self._deadline:
                deadline.over = True
                for handle in self._held.values():
                    _shut_down(handle)


def _shut_down(handle: socket.socket) -> None:
    try:
        handle.shutdown(socket.SHUT_RDWR)
    except OSError:  # the server has closed it already, and nobody waits for it
        return


class _Watched(HTTPConnection):
    """A connection that its fetcher's watch can shut down from the first byte on."""

    watch: Watch

    def _new_conn(self) -> socket.socket:
        timeout_s = self.timeout
        if not isinstance(timeout_s, int | float) or self.port is None:
            raise ValueError(f"a connection needs a timeout and a port, got {timeout_s}")
        opened = self.watch.connect(self._dns_host, self.port, timeout_s, self.socket_options)
        self.watch.hold(self, opened)
        return opened

    def getresponse(self) -> Any:
        """As urllib3's, which leaves the socket open where two lengths contradict each other."""
        opened = self.sock
        try:
            return super().getresponse()
        except BaseException:
            if opened is not None and (number := opened.detach()) >= 0:
                os.close(number)
            raise


class WatchedAdapter(HTTPAdapter):
    """requests' transport, one connection a scheme, never trying again by itself."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As requests', with connections that are watched."""
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """The same on the way through a proxy that the environment names."""
        return self._watch(super().proxy_manager_for(*args, **kwargs))

    def _watch(self, manager: Any) -> Any:
        plain = type("WatchedHTTP", (_Watched,), {"watch": self.watch})
        secure = type("WatchedHTTPS", (_Watched, HTTPSConnection), {"watch": self.watch})
        manager.pool_classes_by_scheme = {
            "http": type("HTTPPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("HTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        return manager
