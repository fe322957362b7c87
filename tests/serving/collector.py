"""An OTLP/HTTP collector on a port of its own: what it was sent, decoded."""

import gzip
import http.server
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass
class Span:
    name: str
    id: bytes
    parent: bytes
    trace: bytes
    began_ns: int
    ended_ns: int
    facts: dict
    service: str
    failed: bool


@dataclass
class Collector:
    url: str
    spans: list = field(default_factory=list)
    bodies: list = field(default_factory=list)

    def named(self, name, **facts):
        wanted = facts.items()
        return [span for span in self.spans if span.name == name and wanted <= span.facts.items()]

    def take(self, body):
        self.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = facts_of(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [span_of(span, resource["service.name"]) for span in scope.spans]


def facts_of(attributes):
    return {one.key: value_of(one.value) for one in attributes}


def value_of(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in value.array_value.values]
    return getattr(value, kind)


def span_of(span, service):
    times = span.start_time_unix_nano, span.end_time_unix_nano
    facts, failed = facts_of(span.attributes), span.status.code == Status.STATUS_CODE_ERROR
    return Span(
        span.name, span.span_id, span.parent_span_id, span.trace_id, *times, facts, service, failed
    )


@contextmanager
def collecting():
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(
                gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            )
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
