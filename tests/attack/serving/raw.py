"""Sockets that say what they like to a service, and what an honest client sees meanwhile."""

import json
import socket
import time
from contextlib import contextmanager

import httpx
import psutil


@contextmanager
def connected(service, *said: bytes):
    """A connection that has sent something, and waits."""
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as opened:
        for each in said:
            opened.sendall(each)
        yield opened


def everything(opened: socket.socket) -> bytes:
    """What comes until the service closes."""
    parts = []
    try:
        while part := opened.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def refusal(answer: bytes) -> tuple[int, str]:
    """(status, code) of a raw answer in the common form of errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def send_until_closed(opened: socket.socket, piece: bytes, most: int) -> int:
    """Send the same piece again and again. returns: bytes sent before the service closed"""
    sent = 0
    try:
        while sent < most:
            opened.sendall(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


def health_s(service) -> float:
    """How long an honest client waits for /api/healthz on a new connection."""
    began = time.monotonic()
    assert httpx.get(f"{service.url}/api/healthz", timeout=30).status_code == 200
    return time.monotonic() - began


def memory() -> int:
    """Resident bytes of this process, in which the service runs."""
    return psutil.Process().memory_info().rss
