"""The proxy before Dagster's and MLflow's pages: Caddy itself, with the compose file's Caddyfile
and start script."""

import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from conftest import REPOSITORY

from devopsgpt_pipeline.local import servers

FOLDER = REPOSITORY / "deploy/proxy"
PASSWORD = 'a long one, with $signs and "quotes"'


class Pages(BaseHTTPRequestHandler):
    """A server without users that tells what reached it."""

    def do_GET(self):
        body = f"{self.headers['Host']} {self.headers.get('Origin')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def pages():
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def proxy(pages, tmp_path):
    """Caddy on free ports. returns: the addresses of Dagster's and MLflow's pages behind it"""
    caddy = shutil.which("caddy", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    ports = {number: servers.free_port() for number in ("2019", "8443", "8444")}
    text = (FOLDER / "Caddyfile").read_text()
    for number, port in ports.items():
        text = text.replace(f":{number}", f":{port}")
    text = text.replace("reverse_proxy webserver:3000", f"reverse_proxy 127.0.0.1:{pages}")
    text = text.replace("reverse_proxy mlflow:5000", f"reverse_proxy 127.0.0.1:{pages}")
    text = text.replace(
        "skip_install_trust", "skip_install_trust\n\tauto_https disable_redirects"
    )  # port 80 is not ours
    (tmp_path / "Caddyfile").write_text(text)
    script = (
        (FOLDER / "start.sh")
        .read_text()
        .replace("/etc/caddy/Caddyfile", str(tmp_path / "Caddyfile"))
    )
    listed = tmp_path / "bin" / "caddy"  # as a process list would show it
    listed.parent.mkdir()
    listed.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\nexec {caddy} "$@"\n')
    listed.chmod(0o755)
    environment = {"PATH": f"{listed.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    environment |= {"PROXY_HOST": "localhost", "PROXY_USER": "operator", "PROXY_PASSWORD": PASSWORD}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["sh", "-c", script], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{ports['2019']}/config/", timeout=2).raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield [f"https://localhost:{ports[number]}" for number in ("8443", "8444")]
    finally:
        process.terminate()
        process.wait(20)


def test_nobody_passes_the_proxy_without_the_password(proxy, tmp_path):
    authority = next(tmp_path.rglob("pki/authorities/local/root.crt"))
    trusted = ssl.create_default_context(cafile=str(authority))
    # a hash takes a second of a processor of its own
    with httpx.Client(verify=trusted, timeout=30) as client:
        for page in proxy:
            assert client.get(page).status_code == 401
            assert client.get(page, auth=("operator", "wrong")).status_code == 401
            assert client.get(page, auth=("root", PASSWORD)).status_code == 401
            answer = client.get(
                page, auth=("operator", PASSWORD), headers={"Origin": "https://elsewhere"}
            )
            assert answer.status_code == 200
            assert "max-age" in answer.headers["Strict-Transport-Security"]
        assert answer.text == "mlflow:5000 None"  # MLflow refuses other names and origins
    assert PASSWORD not in (tmp_path / "log").read_text()
    arguments = (tmp_path / "arguments").read_text()
    assert "hash-password" in arguments
    assert PASSWORD not in arguments


def test_the_proxy_is_the_version_that_the_compose_file_runs():
    caddy = shutil.which("caddy", path=str(Path(sys.executable).parent))
    version = subprocess.run(
        [caddy, "version"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert (
        f"image: caddy:{version.removeprefix('v')}-alpine"
        in (REPOSITORY / "docker-compose.yml").read_text()
    )
