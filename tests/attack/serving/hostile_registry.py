"""A registry that speaks MLflow's part of what the service asks, and says what a test wants it
to."""

import gzip
import http.server
import json
import threading
import time
from contextlib import suppress

MODEL_ID = "m-1"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"


class HostileRegistry:
    """version: what the alias names; artifact_uri: where its files lie; files: name -> bytes;
    manners: part of a path -> what to do with the handler instead of answering
    """

    def __init__(self, files=None):
        self.version = {"version": "1", "source": f"models:/{MODEL_ID}", "tags": []}
        self.artifact_uri = "mlflow-artifacts:/1/files"
        self.files = files or {}
        self.manners = {}
        self.asked = []
        self.headers = []
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.close_connection = True
                with suppress(ConnectionError):
                    registry.answer(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler):
        self.asked.append(handler.path)
        self.headers.append(dict(handler.headers))
        for part, behave in self.manners.items():
            if part in handler.path:
                return behave(handler)
        path = handler.path.partition("?")[0]
        if path.endswith("registered-models/alias"):
            return send_json(handler, {"model_version": self.version})
        if "logged-models/" in path:
            return send_json(handler, {"model": {"info": {"artifact_uri": self.artifact_uri}}})
        if path.endswith("get-download-uri"):
            return send_json(handler, {"artifact_uri": self.artifact_uri})
        name = path.removeprefix(ARTIFACTS).removeprefix("1/files/")
        if name in self.files:
            return send(handler, self.files[name])
        return send(handler, b"", status=404)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def send(handler, content, status=200, **headers):
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def send_json(handler, content):
    send(handler, json.dumps(content).encode())


def saying(content, status=200, **headers):
    """Answer with these bytes."""
    return lambda handler: send(handler, content, status, **headers)


def hang(handler):
    time.sleep(20)


def drip_headers(handler):
    _drip(handler, b"HTTP/1.1 200 OK\r\nX: ")


def drip_body(handler):
    _drip(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def _drip(handler, start):
    handler.wfile.write(start)
    for _ in range(400):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def endless_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100_000):
        handler.wfile.write(b"X: " + b"y" * 1000 + b"\r\n")


def endless_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(10_000):
        handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")


def cut_off(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def no_http(handler):
    handler.wfile.write(b"\x16\x03\x01 hello\r\n\r\n")


def bomb(handler):
    """10 MB in 10 kB, for a client that unpacks what it did not ask to be packed."""
    send(handler, gzip.compress(b"[" * 10_000_000), Content_Encoding="gzip")
