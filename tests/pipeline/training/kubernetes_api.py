"""As much of the Kubernetes API as a training needs, over HTTP: pods are made, listed, read,
deleted.

There is no cluster here, so a pod is a process on this machine that runs its container's command;
what a pod's schema allows is asked of kubernetes-validate. Deleting sends SIGTERM, and the pod is
listed until its process has ended.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

API_VERSION = "1.34"


class Pod:
    """A pod's manifest and its process."""

    def __init__(self, manifest):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", **manifest}, API_VERSION, strict=True
        )
        self.manifest, self.lines, self.deleted_at = manifest, [], None
        self.name = manifest["metadata"]["name"]
        container = manifest["spec"]["containers"][0]
        environment = os.environ | {each["name"]: each["value"] for each in container["env"]}
        self.process = subprocess.Popen(
            [sys.executable, *container["command"][1:]],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        with self.process.stdout as output:
            for line in output:
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
                self.lines.append(f"{now} {line.rstrip()}\n".encode())

    @property
    def gone(self):
        return self.deleted_at is not None and self.process.poll() is not None

    def delete(self):
        if self.deleted_at is None:
            self.deleted_at = datetime.now(UTC).isoformat()
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)

    def as_read(self):
        status = self.process.poll()
        terminated = {
            "terminated": {"exitCode": status, "reason": "Error" if status else "Completed"}
        }
        container = {
            **dict(
                name=self.manifest["spec"]["containers"][0]["name"],
                image="x",
                imageID="x",
                restartCount=0,
            ),
            **dict(ready=status is None, state={"running": {}} if status is None else terminated),
        }
        phase = "Running" if status is None else ("Failed" if status else "Succeeded")
        metadata = self.manifest["metadata"] | {"deletionTimestamp": self.deleted_at}
        return self.manifest | {
            "metadata": metadata,
            "status": {"phase": phase, "containerStatuses": [container]},
        }


class Cluster:
    """The API server of one namespace."""

    def __init__(self, folder):
        self.pods, self.made = {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (Api,), {"cluster": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        address = {"server": f"http://127.0.0.1:{self.server.server_port}"}
        content = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "here"},
            "clusters": [{"name": "here", "cluster": address}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))

    def create(self, manifest):
        pod = self.pods[manifest["metadata"]["name"]] = Pod(manifest)
        self.made.append(pod)
        return pod

    def selected(self, field, label):
        for name in [name for name, pod in self.pods.items() if pod.gone]:
            del self.pods[name]
        return [
            pod
            for pod in self.pods.values()
            if field in ("", f"metadata.name={pod.name}")
            and (
                not label
                or label in {f"{k}={v}" for k, v in pod.manifest["metadata"]["labels"].items()}
            )
        ]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        for pod in self.made:
            if pod.process.poll() is None:
                pod.process.kill()
            pod.process.wait()
            pod.thread.join()


class Api(BaseHTTPRequestHandler):
    """/api/v1/namespaces/default/pods and below."""

    cluster = None
    protocol_version = "HTTP/1.1"

    def parts(self):
        """The path below `pods`, and the query."""
        url = urlsplit(self.path)
        below = url.path.removeprefix("/api/v1/namespaces/default/pods").strip("/").split("/")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        return [part for part in below if part], query

    def do_POST(self):
        self.say(201, self.cluster.create(self.body()).as_read())

    def do_GET(self):
        below, query = self.parts()
        if not below:
            found = self.cluster.selected(
                query.get("fieldSelector", ""), query.get("labelSelector", "")
            )
            self.say(
                200,
                {"kind": "PodList", "apiVersion": "v1", "items": [pod.as_read() for pod in found]},
            )
        elif below[0] not in self.cluster.pods:
            self.missing()
        elif below[1:] == ["log"]:
            self.stream(self.cluster.pods[below[0]], "follow" in query)
        else:
            self.say(200, self.cluster.pods[below[0]].as_read())

    def do_DELETE(self):
        (name, *_), _ = self.parts()
        if name not in self.cluster.pods:
            self.missing()
            return
        self.body()
        pod = self.cluster.pods[name]
        pod.delete()
        self.say(200, pod.as_read())

    def stream(self, pod, follow):
        """The log's lines with their times, chunk by chunk as an API server sends them, until the
        container ends."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        while True:
            ended = not pod.thread.is_alive()
            for line in pod.lines[sent:]:
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                sent += 1
            self.wfile.flush()
            if ended or not follow:
                self.wfile.write(b"0\r\n\r\n")
                return
            time.sleep(0.05)

    def body(self):
        length = int(self.headers["Content-Length"] or 0)
        return json.loads(self.rfile.read(length) or b"{}")

    def missing(self):
        self.say(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})

    def say(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass
