"""Prometheus metrics, named after vLLM's where it has the same, with the prefix devopsgpt: in place
of its own.

Every series has the label model_name, so that a dashboard written for vLLM's needs that prefix and
nothing else. What a backend does not measure is absent, never 0.
"""

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Values
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.versions.alias_follower import AliasFollower

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Metrics:
    """The counters of one service. Methods are called from the engine's thread and the event loop
    alike."""

    def __init__(self, model_name: str) -> None:
        # a second series for each of these, with the time of its first count, is of no use to
        # Prometheus and doubles the page
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.model_name = model_name

        self._define_counters()
        self._define_histograms()

    def _define_counters(self) -> None:
        counter, labelled = self._counter, self._labelled_counter
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of ended sequences.")
        self.queried_tokens = counter(
            "prefix_cache_queries", "Prompt tokens looked for among those computed before."
        )
        self.cached_tokens = counter(
            "prefix_cache_hits", "Prompt tokens that did not have to be computed again."
        )
        self.generation_tokens = counter("generation_tokens", "Tokens sampled.")
        self.ended_sequences = labelled(
            "request_success", "Sequences by how they ended.", "finished_reason"
        )
        self.http_requests = labelled(
            "http_requests", "Requests by route and status.", "route", "status"
        )
        self.rejections = labelled("rejections", "Requests refused, by code.", "code")
        self.failed_streams = labelled(
            "failed_streams", "Streams that an error ended after their 200, by code.", "code"
        )
        self.closed_connections = labelled(
            "closed_connections", "Connections closed before their client did, by reason.", "reason"
        )

    def _define_histograms(self) -> None:
        seconds, tokens = self._seconds, self._tokens
        self.first_token = seconds("time_to_first_token_seconds", "Arrival to first token.")
        self.inter_token = self._histogram(
            "inter_token_latency_seconds",
            "One token to the next of the same sequence.",
            _TOKEN_SECONDS,
        )
        self.per_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Mean time of an answer's tokens after its first.",
            _TOKEN_SECONDS,
        )
        self.latency = seconds("e2e_request_latency_seconds", "Arrival to end of a sequence.")
        self.queue_time = seconds("request_queue_time_seconds", "Arrival to a place in the batch.")
        self.prefill_time = seconds("request_prefill_time_seconds", "Place to first token.")
        self.decode_time = seconds("request_decode_time_seconds", "First token to last.")
        self.inference_time = seconds("request_inference_time_seconds", "Place to last token.")
        self.request_prompt_tokens = tokens("request_prompt_tokens", "Prompt tokens.")
        self.request_generation_tokens = tokens("request_generation_tokens", "Tokens sampled.")
        self.max_generation_tokens = tokens(
            "request_max_num_generation_tokens", "Tokens sampled, of the longest answer."
        )
        self.params_max_tokens = tokens("request_params_max_tokens", "Tokens asked for.")

    def _labelled_counter(self, name: str, meaning: str, *labels: str) -> Callable[..., Counter]:
        """A counter with labels of its own: call it with their values."""
        made = Counter(
            f"devopsgpt:{name}", meaning, ("model_name", *labels), registry=self.registry
        )
        return partial(made.labels, self.model_name)

    def _counter(self, name: str, meaning: str) -> Counter:
        return self._labelled_counter(name, meaning)()

    def _histogram(self, name: str, meaning: str, buckets: Values[float]) -> Histogram:
        made = Histogram(
            f"devopsgpt:{name}", meaning, ("model_name",), registry=self.registry, buckets=buckets
        )
        return made.labels(self.model_name)

    def _seconds(self, name: str, meaning: str) -> Histogram:
        return self._histogram(name, meaning, _SECONDS)

    def _tokens(self, name: str, meaning: str) -> Histogram:
        return self._histogram(name, meaning, _TOKENS)

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
        self.ended_sequences(reason).inc()
        self.prompt_tokens.inc(len(sequence.prompt))
        self.queried_tokens.inc(sequence.queried_tokens)
        self.cached_tokens.inc(sequence.cached_tokens)
        self.latency.observe(time.monotonic() - sequence.arrived)
        self.request_prompt_tokens.observe(len(sequence.prompt))
        self.request_generation_tokens.observe(len(sequence.tokens))
        self.max_generation_tokens.observe(len(sequence.tokens))
        self.params_max_tokens.observe(sequence.sampling.max_tokens)
        self._stages(sequence)

    def _stages(self, sequence: Sequence) -> None:
        """What a sequence's time went to; a stage that it did not reach is not counted."""
        admitted, first, last = sequence.admitted, sequence.first_token, sequence.last_token
        if admitted is not None:
            self.queue_time.observe(admitted - sequence.arrived)
        if admitted is not None and first is not None and last is not None:
            decoded = max(0.0, last - first)
            self.prefill_time.observe(first - admitted)
            self.decode_time.observe(decoded)
            self.inference_time.observe(max(0.0, last - admitted))
            if len(sequence.tokens) > 1:
                self.per_token.observe(decoded / (len(sequence.tokens) - 1))

    def watch(self, engine: Engine, follower: AliasFollower) -> None:
        """Read what engine and follower know whenever metrics are asked for."""
        self.registry.register(_Now(self.model_name, engine, follower))

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    def __init__(self, model_name: str, engine: Engine, follower: AliasFollower) -> None:
        self.model_name = model_name
        self.engine = engine
        self.follower = follower

    def collect(self) -> Iterable[Metric]:
        state, scheduler = self.follower.state, self.engine.current
        yield self._gauge(
            "num_requests_running", "Sequences that have a slot.", self.engine.running
        )
        yield self._gauge(
            "num_requests_waiting", "Sequences that wait for a slot.", self.engine.waiting
        )
        if scheduler is not None and (usage := scheduler.kv_cache_usage) is not None:
            yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0-1.", usage)
        yield self._gauge(
            "registry_up", "Whether the registry answered the last look.", bool(state.registry_up)
        )
        yield self._gauge(
            "up_to_date",
            "Whether what is served is what the registry names.",
            state.problem is None,
        )
        yield self._gauge(
            "fetching",
            "Whether a version is on its way from the registry to this disk.",
            state.fetching,
        )
        yield self._counter("reloads", "Versions taken up since the start.", state.reloads)
        yield self._counter("failed_reloads", "Versions refused.", state.failed_reloads)
        yield from self._served()

    def _served(self) -> Iterable[Metric]:
        """What is served; without samples until something is."""
        served = self.follower.state.served
        info = GaugeMetricFamily(
            "devopsgpt:model_info",
            "The version that is served.",
            labels=["model_name", "model", "version"],
        )
        registered = GaugeMetricFamily(
            "devopsgpt:model_registered_timestamp_seconds",
            "When the served version was registered.",
            labels=["model_name"],
        )
        if served is not None:
            info.add_metric([self.model_name, served.name, served.number], 1)
            registered.add_metric([self.model_name], served.created)
        yield info
        yield registered

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"devopsgpt:{name}", meaning, labels=["model_name"])
        family.add_metric([self.model_name], float(value))
        return family

    def _counter(self, name: str, meaning: str, value: float) -> Metric:
        family = CounterMetricFamily(f"devopsgpt:{name}", meaning, labels=["model_name"])
        family.add_metric([self.model_name], value)
        return family
