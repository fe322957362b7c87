"""This machine's own servers are never asked through a proxy."""

import http.server
import os
import subprocess
import sys
import threading

import pytest

from devopsgpt_model.tracking import bypass_proxies

ASKS = """
import sys, urllib.request
import devopsgpt_pipeline
import httpx, requests
for get in (requests.get, httpx.get, urllib.request.urlopen):
    get(sys.argv[1])
"""


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_own_addresses_are_added_where_a_proxy_is_named(name):
    environment = {name: "http://proxy:3128", "no_proxy": "intern.example, localhost"}
    bypass_proxies(environment)
    assert environment["no_proxy"] == "intern.example,localhost,127.0.0.1,::1"
    assert environment["NO_PROXY"] == "127.0.0.1,localhost,::1"


def test_nothing_changes_without_a_proxy_or_where_none_is_used():
    environment = {"no_proxy": "a"}
    bypass_proxies(environment)
    assert environment == {"no_proxy": "a"}
    environment = {"http_proxy": "http://proxy:3128", "no_proxy": "*", "NO_PROXY": "*"}
    bypass_proxies(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == "*"


def test_every_client_of_ours_asks_this_machine_directly():
    """Behind a proxy where nobody listens."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        dead = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        clean = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
        subprocess.run([sys.executable, "-c", ASKS, url], env=clean | dead, check=True, timeout=60)
        server.shutdown()
    assert asked == ["/"] * 3
