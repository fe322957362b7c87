"""OpenTelemetry traces over OTLP/HTTP, where the standard OTEL_* variables name a collector; else
nothing is imported.

Spans of a request: the request itself (below the caller's own span, where `traceparent` names one),
and for each of its sequences queue_wait, prefill and decode. Of the registry: registry.poll, below
it registry.fetch, model.load and model.swap. They tell ids, counts and the model's version, never a
text. A collector that does not answer costs no time: spans go through a bounded queue to a thread
of their own, and are dropped where it is full.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from devopsgpt_serving.engine.sequence import Sequence

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SERVICE_NAME = "devopsgpt-serving"
CLOSE_S = 2.0  # what is still queued at the end gets so long to reach the collector


class Tracing:
    """Where spans go; nowhere without a provider."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("devopsgpt_serving") if provider else None

    def begin(self, scope: Scope) -> "Span | None":
        """A request came in."""
        if self._tracer is None:
            return None
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        caller = TraceContextTextMapPropagator().extract(dict(Headers(scope=scope)))
        return self._tracer.start_span(scope["method"], caller, SpanKind.SERVER)

    def end(self, span: "Span | None", facts: dict[str, Any], sequences: list[Sequence]) -> None:
        """It was answered. facts: request_id, method, route, status, model, version, and the
        error's code if there is one; sequences: its answers"""
        if span is None:
            return
        from opentelemetry.trace import StatusCode

        span.update_name(f"{facts['method']} {facts['route']}")
        span.set_attributes(
            {
                "http.request.method": facts["method"],
                "http.route": facts["route"],
                "http.response.status_code": facts["status"],
                "devopsgpt.request_id": facts["request_id"],
                "devopsgpt.model_version": facts["version"],
            }
        )
        if sequences:
            span.set_attributes(_generation(facts, sequences))
        code, status = facts.get("error_code"), facts["status"]
        if code:
            span.set_attribute("error.type", code)
        # the latter is a stream that failed after its 200
        if status >= 500 or (code and status < 400):
            span.set_status(StatusCode.ERROR)
        span.end()

    def ended(self, sequence: Sequence, reason: str) -> None:
        """A sequence of a traced request ended: tell what it spent its time on."""
        if self._tracer is None or sequence.span is None:
            return
        from opentelemetry.trace import set_span_in_context

        parent = set_span_in_context(sequence.span)
        facts = {
            "devopsgpt.request_id": sequence.request_id,
            "devopsgpt.model_version": sequence.version,
        }
        for name, began, finished, more in _stages(sequence, reason):
            span = self._tracer.start_span(
                name, parent, attributes=facts | more, start_time=_wall_ns(began)
            )
            span.end(_wall_ns(finished))

    @contextmanager
    def step(self, name: str, **facts: str) -> Iterator[None]:
        """A step of following the registry; steps inside it hang below it."""
        if self._tracer is None:
            yield
            return
        attributes = {f"devopsgpt.{key}": value for key, value in facts.items()}
        with self._tracer.start_as_current_span(name, attributes=attributes):
            yield

    def close(self) -> None:
        """Send what is queued, for a while."""
        if self._provider is not None:
            sending = threading.Thread(
                target=self._provider.shutdown, name="tracing-close", daemon=True
            )
            sending.start()
            sending.join(CLOSE_S)


def open_tracing() -> Tracing:
    """Traces as the environment asks for them."""
    endpoint = next((value for name in ENDPOINTS if (value := os.environ.get(name))), None)
    off = (
        os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    if endpoint is None or off:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.error(
            "no traces: a collector is named, and a package is missing: pip install "
            "'devopsgpt[tracing]' (%s)",
            error,
        )
        return Tracing()
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if named else {"service.name": SERVICE_NAME})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    log.info("traces go out", extra={"collector": endpoint})
    return Tracing(provider)


def _generation(facts: dict[str, Any], sequences: list[Sequence]) -> dict[str, Any]:
    """OpenTelemetry's gen_ai attributes of one request: what was asked for, and counts."""
    sampling = sequences[0].sampling
    prompts = {id(sequence.prompt): len(sequence.prompt) for sequence in sequences}
    reasons = [sequence.finish_reason or "error" for sequence in sequences]
    attributes = {
        "operation.name": "chat" if "chat" in facts["route"] else "text_completion",
        "provider.name": "devopsgpt",
        "request.model": facts["model"],
        "request.choice.count": len(sequences) // len(prompts),
        "request.max_tokens": sampling.max_tokens,
        "request.temperature": sampling.temperature,
        "request.top_k": sampling.top_k,
        "request.top_p": sampling.top_p,
        "request.frequency_penalty": sampling.frequency_penalty,
        "request.presence_penalty": sampling.presence_penalty,
        "response.model": f"{facts['model']}-{facts['version']}",
        "response.finish_reasons": reasons,
        "usage.input_tokens": sum(prompts.values()),
        "usage.output_tokens": sum(len(sequence.tokens) for sequence in sequences),
    }
    if sampling.seed is not None:
        attributes["request.seed"] = sampling.seed
    return {f"gen_ai.{name}": value for name, value in attributes.items()}


def _stages(sequence: Sequence, reason: str) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """What a sequence that ended now has been through: name, begin, end, facts."""
    now = time.monotonic()
    yield "queue_wait", sequence.arrived, sequence.admitted or now, {}
    if sequence.admitted is not None:
        prompt = {"prompt_tokens": len(sequence.prompt), "cached_tokens": sequence.cached_tokens}
        yield "prefill", sequence.admitted, sequence.first_token or now, prompt
    if sequence.first_token is not None:
        answer = {"completion_tokens": len(sequence.tokens), "finish_reason": reason}
        yield "decode", sequence.first_token, now, answer


def _wall_ns(monotonic_s: float) -> int:
    """A time.monotonic() as Unix nanoseconds."""
    return time.time_ns() + int((monotonic_s - time.monotonic()) * 1e9)
