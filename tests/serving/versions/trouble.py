"""A proxy before a real server that refuses, hangs, answers 500 or cuts an answer short when told
to."""

import http.client
import http.server
import threading
import time


class Proxy:
    """mode: "pass", "refuse", "hang", "500", and in the middle of the weights' file "truncate",
    "stall" or "hold"

    "stall" sends nothing more, "hold" sends the rest once the mode is another.
    """

    def __init__(self, target_port):
        self.mode = "pass"
        self.requests = []
        self.target_port = target_port
        self.port = 0
        self._open()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def _open(self):
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def forward(self):
                proxy.forward(self)

            do_GET = do_POST = forward

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def forward(self, handler):
        handler.close_connection = True
        self.requests.append(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if self.mode == "hang":
            time.sleep(30)
            return
        if self.mode == "500":
            handler.send_response(500)
            handler.send_header("Content-Length", "0")
            handler.send_header("Connection", "close")
            handler.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=30)
        headers = {name: value for name, value in handler.headers.items() if name.lower() != "host"}
        connection.request(
            handler.command, handler.path, body, headers | {"Accept-Encoding": "identity"}
        )
        answer = connection.getresponse()
        content = answer.read()
        handler.send_response(answer.status)
        handler.send_header(
            "Content-Type", answer.headers.get("Content-Type", "application/octet-stream")
        )
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        connection.close()
        weights = handler.path.partition("?")[0].endswith("model.safetensors")
        cut, held = (
            weights and self.mode in ("truncate", "stall", "hold"),
            weights and self.mode == "hold",
        )
        handler.wfile.write(content[: len(content) // 2] if cut else content)
        while cut and self.mode in ("stall", "hold"):
            time.sleep(0.02)
        if held:
            handler.wfile.write(content[len(content) // 2 :])

    def refuse(self):
        """Stop listening: connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    def listen_again(self):
        self.mode = "pass"
        self._open()

    def close(self):
        self.refuse()
