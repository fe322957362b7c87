"""As much of the Hugging Face hub as a download needs, on a real server that can be told to
fail."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class Hub(ThreadingHTTPServer):
    """repositories: path of a repository, as "datasets/owner/name" -> its folder.

    missing: names of files that are not there; altered: of files whose bytes differ from what is
    declared;
    cut: name -> after how many bytes each answer ends; held: name -> an event that its answer waits
    for
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.asked = {}, []
        self.missing, self.altered, self.cut, self.held = set(), set(), {}, {}
        self.busy = {}  # name -> how many questions for its facts are answered 503

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def sha256(self, path):
        return hashlib.sha256(path.read_bytes()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Files of a repository at any revision, and of a dataset the list of its files."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        hub, path = self.server, urlsplit(self.path).path
        hub.asked.append(f"{self.command} {path}")
        listing = re.fullmatch(r"/api/(.+?)/revision/(\w+)", path)
        file = re.fullmatch(r"/(.+?)/resolve/(\w+)/(.+)", path)
        folder = hub.repositories.get((listing or file)[1]) if listing or file else None
        if folder is None or (file and (file[3] in hub.missing or not (folder / file[3]).exists())):
            self.send_error(404)
        elif file and not with_body and hub.busy.get(file[3], 0):
            hub.busy[file[3]] -= 1
            self.send_error(503)
        elif listing:
            self.send_listing(folder, listing[1].partition("/")[2], listing[2])
        else:
            self.send_file(folder / file[3], file[3], file[2], with_body)

    def send_listing(self, folder, repository, revision):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        siblings = [self.sibling(path, str(path.relative_to(folder))) for path in files]
        body = json.dumps({"id": repository, "sha": revision, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def sibling(self, path, name):
        size = path.stat().st_size
        large = {"lfs": {"sha256": self.server.sha256(path), "size": size, "pointerSize": 130}}
        return {
            "rfilename": name,
            "size": size,
            "blobId": "0" * 40,
            **(large if path.suffix == ".parquet" else {}),
        }

    def send_file(self, path, name, revision, with_body):
        hub, body = self.server, path.read_bytes()
        etag, first = hub.sha256(path), self.first_byte()
        if name in hub.altered:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", revision)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        if with_body and self.wait_for(name):
            self.wfile.write(body[first : hub.cut.get(name, len(body))])
            self.wfile.flush()

    def first_byte(self):
        match = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else 0

    def wait_for(self, name):
        """False where the one who asked is gone meanwhile."""
        return name not in self.server.held or self.server.held[name].wait(20)

    def log_message(self, *arguments):
        pass


@contextmanager
def serving_hub(repositories: dict[str, Path]):
    """A hub with these repositories until the block ends."""
    hub = Hub()
    hub.repositories = repositories
    threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        for event in hub.held.values():
            event.set()
        hub.shutdown()
        hub.server_close()
