"""The metrics of ``GET /metrics``, based on the official Prometheus client.

The observer counts a request once, when it completes. With several workers, each one writes its
own files to ``PROMETHEUS_MULTIPROC_DIR`` (created by ``gunicorn.conf.py``), and the worker that
serves ``GET /metrics`` merges them.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core import errors
from forwarder.observability.metric_labels import (
    OTHER_LABEL,
    LabelSet,
    label_parameter,
    list_configured_models,
)

Metric = TypeVar("Metric", bound=MetricWrapperBase)

DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
ANSWER_LABELS = ("route", "upstream", "model")

MAX_CLIENT_LABELS = 256
"""Clients with their own label. Each adds few series: only counters of clients have this label."""

ERROR_KINDS: dict[type[errors.ForwarderError], str] = {
    errors.UpstreamKeyRefused: "key_refused",
    errors.UpstreamMisconfigured: "misconfigured",
    errors.UpstreamUnreachable: "unreachable",
    errors.UpstreamProtocolError: "protocol",
    errors.UpstreamTimeout: "timeout",
}
"""Error class -> label ``kind``. `classify_refusal` maps refusals by their status."""

ENDPOINT_CONDITIONS = {"usable": 0, "cooling_down": 1, "broken": 2}
BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


class ProcessState(NamedTuple):
    """The state of one worker at a moment.

    ``memory_bytes`` is the resident memory, None if it is unknown. ``store_kind`` is
    None without a store.
    """

    memory_bytes: int | None
    running_requests: int
    background_jobs: int
    store_kind: str | None
    is_store_up: bool


class MetricsObserver(RequestObserver):
    """Counts requests, tokens, tool calls and errors; shows the states of breakers and workers."""

    def __init__(self, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self._model_labels = LabelSet(list_configured_models(settings))
        self._reason_labels = LabelSet(max_learned=32)
        self._upstream_labels = LabelSet(
            (upstream.name for upstream in settings.upstreams), max_learned=256
        )
        self._client_labels = LabelSet(max_learned=MAX_CLIENT_LABELS)  # configured names
        self._series: dict[tuple[object, ...], MetricWrapperBase] = {}
        self._create_request_metrics()
        self._create_failure_metrics()
        self._create_process_metrics()

    def _create_request_metrics(self) -> None:
        counter = partial(Counter, namespace="forwarder", registry=self._registry)
        histogram = partial(
            Histogram, namespace="forwarder", registry=self._registry, buckets=DURATION_BUCKETS
        )
        self._requests = counter("requests_total", "Finished requests.", (*ANSWER_LABELS, "status"))
        self._input_tokens = counter("input_tokens_total", "Tokens of prompts.", ANSWER_LABELS)
        self._output_tokens = counter("output_tokens_total", "Tokens of answers.", ANSWER_LABELS)
        self._client_requests = counter(
            "client_requests_total", "Finished requests of a client.", ("client",)
        )
        self._client_input_tokens = counter(
            "client_input_tokens_total", "Tokens of a client's prompts.", ("client",)
        )
        self._client_output_tokens = counter(
            "client_output_tokens_total", "Tokens of a client's answers.", ("client",)
        )
        self._events = counter("events_total", "Stream events of answers.", ANSWER_LABELS)
        self._first_event_seconds = histogram(
            "first_event_seconds",
            "Time from the request to the first event of its answer.",
            ANSWER_LABELS,
        )
        self._stream_seconds = histogram(
            "stream_seconds",
            "Time from the request to the end of its streamed answer.",
            ANSWER_LABELS,
        )
        self._open_streams = Gauge(
            "open_streams",
            "Streamed answers in progress.",
            ("route",),
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._dropped_parameters = counter(
            "dropped_parameters_total", "Parameters lost in translation.", ("parameter",)
        )
        self._tool_calls = counter(
            "tool_calls_total", "Calls of hosted tools that ran here.", ("tool", "outcome")
        )

    def _create_failure_metrics(self) -> None:
        counter = partial(Counter, namespace="forwarder", registry=self._registry)
        self._errors = counter(
            "upstream_errors_total", "Requests that failed at an upstream.", ("upstream", "kind")
        )
        self._retries = counter("retries_total", "Retries at upstreams.", ("upstream", "reason"))
        self._fallbacks = counter(
            "fallbacks_total", "Requests sent to a fallback.", ("upstream", "to")
        )
        self._refusals = counter(
            "refusals_total", "Requests refused by the forwarder.", ("reason",)
        )
        self._breakers = Gauge(
            "breaker_state",
            "0 closed, 1 half open, 2 open; the highest of all workers.",
            ("upstream",),
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livemax",
        )

        where = ("upstream", "host", "key")
        self._endpoint_answers = counter(
            "endpoint_answers_total",
            "Calls of the endpoints of upstreams that have several.",
            (*where, "outcome"),
        )
        self._endpoint_conditions = Gauge(
            "endpoint_state",
            "0 usable, 1 cooling down, 2 breaker open; the highest of all workers.",
            where,
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._upstream_up = Gauge(
            "upstream_up",
            "1 if the last check succeeded, otherwise 0; the lowest of all workers.",
            ("upstream",),
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._check_seconds = Histogram(
            "upstream_check_seconds",
            "Duration of checks of upstreams and registered models.",
            ("upstream",),
            namespace="forwarder",
            registry=self._registry,
            buckets=DURATION_BUCKETS,
        )

    def _create_process_metrics(self) -> None:
        gauge = partial(Gauge, namespace="forwarder", registry=self._registry)
        self._workers = gauge("workers", "Running workers.", multiprocess_mode="livesum")
        self._memory = gauge(
            "worker_memory_bytes",
            "Resident memory of the largest worker.",
            multiprocess_mode="livemax",
        )
        self._running_requests = gauge(
            "running_requests",
            "Requests in progress, with background work.",
            multiprocess_mode="livesum",
        )
        self._background_jobs = gauge(
            "background_jobs", "Background responses in progress.", multiprocess_mode="livesum"
        )
        self._store_up = gauge(
            "store_up",
            "1 if the database can be read and written, otherwise 0; the lowest of all workers.",
            ("kind",),
            multiprocess_mode="livemin",
        )

    def record_process(self, state: ProcessState) -> None:
        """Set the gauges of this worker; call it every few seconds."""
        self._workers.set(1)
        if state.memory_bytes is not None:
            self._memory.set(state.memory_bytes)
        self._running_requests.set(state.running_requests)
        self._background_jobs.set(state.background_jobs)
        if state.store_kind is not None:
            self._store_up.labels(state.store_kind).set(int(state.is_store_up))

    # -- observer methods -------------------------------------------------------------------------

    def on_stream_start(self, context: RequestContext) -> None:
        self._find_series(self._open_streams, context.route).inc()

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        answered = context.first_event_at is not None and context.error_class is None
        upstream = self._upstream_labels.get_label(context.upstream)
        model = self._model_labels.get_label(context.model, learn=answered)
        where = (context.route, upstream, model)
        if context.is_streamed:
            self._find_series(self._open_streams, context.route).dec()
        client = self._client_labels.get_label(context.client_name)
        self._find_series(self._requests, *where, context.status).inc()
        self._find_series(self._client_requests, client).inc()
        self._count_answer(context, where, client)
        if context.is_streamed:
            self._find_series(self._stream_seconds, *where).observe(seconds)
        for name in context.loss_report.losses:
            self._dropped_parameters.labels(label_parameter(name)).inc()
        kind = find_error_kind(context)
        if kind is not None:
            self._errors.labels(upstream, kind).inc()

    def _count_answer(
        self, context: RequestContext, where: tuple[str, str, str], client: str
    ) -> None:
        if context.first_event_at is None:
            return
        self._find_series(self._first_event_seconds, *where).observe(
            context.first_event_at - context.started_at
        )
        self._find_series(self._events, *where).inc(context.event_count)
        for counted, by_client, tokens in zip(
            (self._input_tokens, self._output_tokens),
            (self._client_input_tokens, self._client_output_tokens),
            context.token_counts,
            strict=True,
        ):
            if tokens:
                self._find_series(counted, *where).inc(tokens)
                self._find_series(by_client, client).inc(tokens)

    def _find_series(self, metric: Metric, *labels: str | int) -> Metric:
        """Return the time series of these labels; the label sets limit their number.

        They are cached here, since the Prometheus client's lookup takes as long as counting.
        """
        key = (metric, *labels)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = metric.labels(*labels)
        return series  # type: ignore[return-value]

    def on_tool_call(self, context: RequestContext, tool: str, has_failed: bool) -> None:
        self._tool_calls.labels(tool, "failed" if has_failed else "completed").inc()

    def on_retry(self, upstream: str, reason: str) -> None:
        self._retries.labels(
            self._upstream_labels.get_label(upstream), self._reason_labels.get_label(reason)
        ).inc()

    def on_failure(self, upstream: str, error: errors.ForwarderError) -> None:
        kind = classify_error(type(error), error.status)
        if kind is not None:
            self._errors.labels(self._upstream_labels.get_label(upstream), kind).inc()

    def on_fallback(self, upstream: str, to: str, reason: str) -> None:
        self._fallbacks.labels(
            self._upstream_labels.get_label(upstream), self._upstream_labels.get_label(to)
        ).inc()

    def on_breaker_change(self, upstream: str, state: str) -> None:
        self._breakers.labels(self._upstream_labels.get_label(upstream)).set(BREAKER_STATES[state])

    def on_endpoint_answer(self, upstream: UpstreamSettings, has_failed: bool) -> None:
        outcome = "failed" if has_failed else "answered"
        self._endpoint_answers.labels(*label_endpoint(upstream), outcome).inc()

    def record_endpoint(self, upstream: UpstreamSettings, condition: str) -> None:
        """Set the state of one of several endpoints; call it every few seconds."""
        value = ENDPOINT_CONDITIONS[condition]
        self._endpoint_conditions.labels(*label_endpoint(upstream)).set(value)

    def on_rejection(self, reason: str, upstream: str | None = None) -> None:
        self._refusals.labels(self._reason_labels.get_label(reason)).inc()

    def on_health_check(self, upstream: str, is_healthy: bool, seconds: float) -> None:
        name = self._upstream_labels.get_label(upstream)
        self._upstream_up.labels(name).set(int(is_healthy))
        self._check_seconds.labels(name).observe(seconds)

    # -- output -----------------------------------------------------------------------------------

    def render_text(self) -> bytes:
        """Return the metrics of all workers in Prometheus' text format."""
        merged = CollectorRegistry()
        try:
            MultiProcessCollector(merged)  # type: ignore[no-untyped-call]
        except ValueError:  # PROMETHEUS_MULTIPROC_DIR is not set: there is only this process
            merged = self._registry
        return generate_latest(merged)


def label_endpoint(upstream: UpstreamSettings) -> tuple[str, str, str]:
    """Return the labels of an endpoint: positions in the settings, never a key or an address."""
    endpoint = upstream.endpoint
    host, key = (1, 1) if endpoint is None else endpoint[:2]
    return upstream.name, str(host), str(key)


def find_error_kind(context: RequestContext) -> str | None:
    """Return the label ``kind`` for the upstream's failure, or ``None`` if it did not fail."""
    if context.error_class is None:
        return "failed" if context.error else None
    return classify_error(context.error_class, context.status)


def classify_error(error_class: type[errors.ForwarderError], status: int) -> str | None:
    if error_class is errors.UpstreamRefused:
        return classify_refusal(status)
    if error_class is errors.UpstreamUnavailable:  # no request was sent
        return None
    kinds = (kind for error, kind in ERROR_KINDS.items() if issubclass(error_class, error))
    return next(kinds, OTHER_LABEL if issubclass(error_class, errors.UpstreamError) else None)


def classify_refusal(status: int) -> str:
    if status == 429:
        return "rate_limited"
    return "refused" if status < 500 else "server_error"


def read_resident_memory() -> int | None:
    """Return the resident memory of this process in bytes, or None if it is unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):  # not Linux
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
