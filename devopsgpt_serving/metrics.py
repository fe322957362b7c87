"""Prometheus metrics, named after vLLM's where it has the same, with the prefix devopsgpt: in place
of its own.

A dashboard written for vLLM's needs that prefix, and no filter by the label model_name, which ours
lack: a process serves one model, which devopsgpt:model_info names.
"""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.versions.alias_follower import AliasFollower

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The counters of one service. Methods are called from the engine's thread and the event loop
    alike."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"devopsgpt:{name}", meaning, labels, registry=self.registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"devopsgpt:{name}", meaning, buckets=buckets, registry=self.registry)

        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of ended sequences.")
        self.queried_tokens = counter(
            "prefix_cache_queries", "Prompt tokens looked for among those computed before."
        )
        self.cached_tokens = counter(
            "prefix_cache_hits", "Prompt tokens that did not have to be computed again."
        )
        self.generation_tokens = counter("generation_tokens", "Tokens sampled.")
        self.ended_sequences = counter(
            "request_success", "Sequences by how they ended.", "finished_reason"
        )
        self.http_requests = counter(
            "http_requests", "Requests by route and status.", "route", "status"
        )
        self.rejections = counter("rejections", "Requests refused, by code.", "code")
        self.failed_streams = counter(
            "failed_streams", "Streams that an error ended after their 200, by code.", "code"
        )
        self.closed_connections = counter(
            "closed_connections", "Connections closed before their client did, by reason.", "reason"
        )
        self.first_token = histogram(
            "time_to_first_token_seconds", "Arrival to first token.", _SECONDS
        )
        self.inter_token = histogram(
            "inter_token_latency_seconds",
            "One token to the next of the same sequence.",
            _TOKEN_SECONDS,
        )
        self.latency = histogram(
            "e2e_request_latency_seconds", "Arrival to end of a sequence.", _SECONDS
        )

    def token(self, sequence: Sequence) -> None:
        """A token was sampled."""
        now = time.monotonic()
        self.generation_tokens.inc()
        if sequence.last_token is None:
            self.first_token.observe(now - sequence.arrived)
        else:
            self.inter_token.observe(now - sequence.last_token)
        sequence.last_token = now

    def ended(self, sequence: Sequence, reason: str) -> None:
        """A sequence ended, one way or another."""
        self.ended_sequences.labels(reason).inc()
        self.prompt_tokens.inc(len(sequence.prompt))
        self.queried_tokens.inc(sequence.queried_tokens)
        self.cached_tokens.inc(sequence.cached_tokens)
        self.latency.observe(time.monotonic() - sequence.arrived)

    def watch(self, engine: Engine, follower: AliasFollower) -> None:
        """Read what engine and follower know whenever metrics are asked for."""
        self.registry.register(_Now(engine, follower))

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    def __init__(self, engine: Engine, follower: AliasFollower) -> None:
        self.engine = engine
        self.follower = follower

    def collect(self) -> Iterable[Metric]:
        state = self.follower.state
        gauges = {
            "num_requests_running": ("Sequences that have a slot.", self.engine.running),
            "num_requests_waiting": ("Sequences that wait for a slot.", self.engine.waiting),
            "registry_up": (
                "Whether the registry answered the last look.",
                int(bool(state.registry_up)),
            ),
            "up_to_date": (
                "Whether what is served is what the registry names.",
                int(state.problem is None),
            ),
            "fetching": (
                "Whether a version is on its way from the registry to this disk.",
                int(state.fetching),
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"devopsgpt:{name}", meaning, value)
        yield CounterMetricFamily(
            "devopsgpt:reloads", "Versions taken up since the start.", state.reloads
        )
        yield CounterMetricFamily(
            "devopsgpt:failed_reloads", "Versions refused.", state.failed_reloads
        )
        info = GaugeMetricFamily(
            "devopsgpt:model_info", "The version that is served.", labels=["model", "version"]
        )
        registered = GaugeMetricFamily(
            "devopsgpt:model_registered_timestamp_seconds",
            "When the served version was registered.",
            labels=[],
        )
        if state.served is not None:
            info.add_metric([state.served.name, state.served.number], 1)
            registered.add_metric([], state.served.created)
        yield info
        yield registered
