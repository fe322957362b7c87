"""The proxy before Dagster's and MLflow's pages and the API: who passes, and with which headers."""

import base64
import shutil
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from conftest import REPOSITORY
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from deploy import caddy
from deploy.caddy import PASSWORD

OPERATOR = ("operator", PASSWORD)
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Pages(BaseHTTPRequestHandler):
    """A server without users that tells what reached it."""

    def do_GET(self):
        names = ("Host", "Origin", "Authorization")
        body = " ".join(str(self.headers.get(name)) for name in names).encode()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def pages():
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("proxy")


@pytest.fixture(scope="module")
def proxy(pages, place):
    """The addresses of Dagster's and MLflow's pages and of the API behind Caddy."""
    with caddy.proxy(place, [f"127.0.0.1:{pages}"] * 3, caddy.ports()) as addresses:
        yield addresses


def trusting(place):
    authority = next(place.rglob("pki/authorities/local/root.crt"))
    return ssl.create_default_context(cafile=str(authority))


@pytest.fixture(scope="module")
def client(proxy, place):
    # a hash takes a second of a processor of its own
    with httpx.Client(verify=trusting(place), timeout=30) as client:
        yield client


def test_nobody_passes_the_proxy_without_the_password(proxy, client, place):
    for page in proxy[:2]:
        assert client.get(page).status_code == 401
        assert client.get(page, auth=("operator", "wrong")).status_code == 401
        assert client.get(page, auth=("root", PASSWORD)).status_code == 401
        answer = client.get(page, auth=OPERATOR)
        assert answer.status_code == 200
        assert "max-age" in answer.headers["Strict-Transport-Security"]
    assert PASSWORD not in (place / "log").read_text()
    arguments = (place / "arguments").read_text()
    assert "hash-password" in arguments
    assert PASSWORD not in arguments


@pytest.mark.parametrize("page", [0, 1], ids=["dagster", "mlflow"])
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),  # a program
        ("POST", {"Origin": "{page}"}, 200),
        ("PUT", {"Origin": "{page}", "Sec-Fetch-Site": "same-origin"}, 200),
        ("GET", {"Sec-Fetch-Site": "none"} | LINK, 200),
        ("GET", {"Sec-Fetch-Site": "cross-site"} | LINK, 200),
        ("POST", {"Sec-Fetch-Site": "cross-site"} | LINK, 403),  # a form
        ("GET", {"Sec-Fetch-Site": "cross-site"} | LINK | {"Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),  # an image
        ("GET", {"Sec-Fetch-Site": "same-site"}, 403),  # of the other port's pages
        ("POST", {"Origin": "https://evil.test"}, 403),
        ("DELETE", {"Origin": "null"}, 403),
        ("POST", {"Origin": "http://localhost"}, 403),
        ("POST", {"Origin": "{page}.evil.test"}, 403),
        ("GET", {"Origin": "https://evil.test"}, 403),
    ],
)
def test_only_our_own_pages_do_more_than_follow_a_link(
    proxy, client, page, method, headers, status
):
    address = proxy[page]
    sent = {name: value.format(page=address) for name, value in headers.items()}
    answer = client.request(method, address, headers=sent, auth=OPERATOR)
    assert answer.status_code == status, answer.text


def test_what_the_servers_behind_the_proxy_see(proxy, client):
    dagster, mlflow, api = proxy
    seen = [
        client.post(each, headers={"Origin": each}, auth=OPERATOR).text.split()[:2]
        for each in (dagster, mlflow)
    ]
    assert seen == [[dagster.removeprefix("https://"), dagster], ["mlflow:5000", mlflow]]
    key = {"Authorization": "Bearer key", "Origin": "https://other.example"}
    host = api.removeprefix("https://")
    assert client.post(api, headers=key).text == f"{host} https://other.example Bearer key"
    assert "max-age" in client.get(api).headers["Strict-Transport-Security"]


def echo(socket):
    socket.send(f"heard {socket.recv()}")


def test_a_websocket_passes_from_our_own_pages_only(tmp_path):
    encoded = base64.b64encode(":".join(OPERATOR).encode()).decode()
    credentials = {"Authorization": f"Basic {encoded}"}
    with serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        upstreams = [f"127.0.0.1:{server.socket.getsockname()[1]}"] * 3
        with caddy.proxy(tmp_path, upstreams, caddy.ports()) as (dagster, *_):
            address = dagster.replace("https", "wss")
            more = {"ssl": trusting(tmp_path), "additional_headers": credentials}
            with connect(address, origin=dagster, **more) as socket:
                socket.send("hello")
                assert socket.recv() == "heard hello"
            with pytest.raises(InvalidStatus, match="403"):
                connect(address, origin="https://evil.test", **more)
        server.shutdown()


def test_the_proxy_is_the_version_that_the_compose_file_runs():
    found = shutil.which("caddy", path=str(Path(sys.executable).parent))
    version = subprocess.run([found, "version"], capture_output=True, text=True, check=True)
    number = version.stdout.split()[0].removeprefix("v")
    assert f"image: caddy:{number}-alpine@" in (REPOSITORY / "docker-compose.yml").read_text()
