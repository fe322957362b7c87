"""Caddy itself with the compose file's Caddyfile and start script, on free ports."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from conftest import REPOSITORY

from devopsgpt_pipeline.local import servers

FOLDER = REPOSITORY / "deploy/proxy"
PASSWORD = 'a long one, with $signs and "quotes"'
UPSTREAMS = ("webserver:3000", "mlflow:5000", "serving:8000")


def program():
    return shutil.which("caddy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def ports():
    """Free ports in place of those that the Caddyfile names."""
    return {number: servers.free_port() for number in ("2019", "8443", "8444", "8445")}


@contextmanager
def proxy(place, upstreams, ports):
    """Caddy before these addresses, one for each of UPSTREAMS. returns: the three addresses of what
    is behind it"""
    text = (FOLDER / "Caddyfile").read_text()
    for number, port in ports.items():
        text = text.replace(f":{number}", f":{port}")
    for name, address in zip(UPSTREAMS, upstreams, strict=True):
        assert f"reverse_proxy {name}" in text
        text = text.replace(f"reverse_proxy {name}", f"reverse_proxy {address}")
    text = text.replace(
        "skip_install_trust", "skip_install_trust\n\tauto_https disable_redirects"
    )  # port 80 is not ours
    (place / "Caddyfile").write_text(text)
    script = (FOLDER / "start.sh").read_text()
    script = script.replace("/etc/caddy/Caddyfile", str(place / "Caddyfile"))
    listed = place / "bin" / "caddy"  # as a process list would show it
    listed.parent.mkdir()
    listed.write_text(f'#!/bin/sh\necho "$@" >> {place}/arguments\nexec {program()} "$@"\n')
    listed.chmod(0o755)
    environment = {"PATH": f"{listed.parent}:{os.environ['PATH']}", "HOME": str(place)}
    environment |= {"PROXY_HOST": "localhost", "PROXY_USER": "operator", "PROXY_PASSWORD": PASSWORD}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(["sh", "-c", script], env=environment, stdout=log, stderr=log)
    try:
        addresses = [f"https://localhost:{ports[number]}" for number in ("8443", "8444", "8445")]
        _wait(process, addresses, place / "log")
        yield addresses
    finally:
        process.terminate()
        process.wait(20)


def _wait(process, addresses, log):
    """Until each address has its certificate: they are made after the ports are opened."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + 60
    for address in addresses:
        while True:
            port = int(address.rpartition(":")[2])
            try:
                with (
                    socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
                    anybody.wrap_socket(connection, server_hostname="localhost"),
                ):
                    break
            except OSError:  # SSLError is one
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
