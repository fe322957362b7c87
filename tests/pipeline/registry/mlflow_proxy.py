"""A way to a real MLflow server on which calls are counted, and one of them fails."""

import http.client
import http.server
import threading
from urllib.parse import parse_qs, urlsplit

WAYS = ("refused", "cut", "lost")
"""How a call fails: answered with 500, cut before the server hears of it, or done and its answer
lost."""


class MlflowProxy:
    """Forwards to the server at a port. calls: what was asked for since `fail_at`, as kinds without
    ids

    hold: asked of each kind, before it is forwarded; True drops the call once `held` was set and
    `released` came
    """

    def __init__(self, port):
        self.calls, self.fails_at, self.way = [], 0, "refused"
        self.hold, self.held, self.released = (
            (lambda kind: False),
            threading.Event(),
            threading.Event(),
        )
        self._counting = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kind = kind_of(self.command, self.path, body)
                way = proxy._next_way(kind)
                if proxy.hold(kind):
                    proxy.held.set()
                    proxy.released.wait(60)
                    way = "cut"
                if way == "refused":
                    self.send_error(500)
                    return
                if way == "cut":
                    self.close_connection = True
                    return
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                headers = {
                    name: value for name, value in self.headers.items() if name.lower() != "host"
                }
                connection.request(
                    self.command, self.path, body, headers | {"Accept-Encoding": "identity"}
                )
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if way == "lost":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                self.send_header(
                    "Content-Type", answer.headers.get("Content-Type", "application/octet-stream")
                )
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = forward

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def _next_way(self, kind):
        with self._counting:  # artifacts are fetched by several threads
            self.calls.append(kind)
            return self.way if len(self.calls) == self.fails_at else "forwarded"

    def fail_at(self, call, way):
        """Let the call of this number, counted from 1, fail; 0 lets all through."""
        self.calls, self.fails_at, self.way = [], call, way

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


def kind_of(method, path, body):
    """What a call does, without ids: "POST registered-models/alias champion", "GET artifacts"."""
    parts = urlsplit(path)
    words = [word for word in parts.path.split("/") if word]
    if "mlflow-artifacts" in words:
        return f"{method} artifacts"
    words = words[words.index("mlflow") + 1 :] if "mlflow" in words else words
    name = "/".join(word for word in words if not any(map(str.isdigit, word)))
    alias = parse_qs(parts.query).get("alias", [""])[0]
    for key in (b'"alias": "', b'"key": "'):
        if key in body:
            alias = body.partition(key)[2].partition(b'"')[0].decode()
    return f"{method} {name} {alias}".strip()
