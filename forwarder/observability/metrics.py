"""The numbers of ``GET /metrics``, counted with the official Prometheus client.

All that an exchange noted is counted once, at its end.  With several workers each writes its own
files into ``PROMETHEUS_MULTIPROC_DIR``, which ``gunicorn.conf.py`` makes, and whichever worker is
asked adds them up.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from forwarder.config.settings import Settings
from forwarder.context.request_context import Exchange, Observer
from forwarder.core import errors
from forwarder.observability.metric_labels import OTHER, Names, models, parameter

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_WHERE = ("route", "upstream", "model")

_KINDS: dict[type[errors.ForwarderError], str] = {
    errors.UpstreamKeyRefused: "key_refused",
    errors.UpstreamMisconfigured: "misconfigured",
    errors.UpstreamUnreachable: "unreachable",
    errors.UpstreamBroken: "protocol",
    errors.UpstreamTimeout: "timeout",
}
"""What the upstream did; that it refused is told by its status."""

_STATES = {"closed": 0, "half_open": 1, "open": 2}


class Metrics(Observer):
    """Counts what becomes of exchanges."""

    def __init__(self, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self._models = Names(models(settings))
        self._reasons = Names(most=32)
        self._upstreams = Names((upstream.name for upstream in settings.upstreams), most=256)
        self._count_exchanges()
        self._count_trouble()

    def _count_exchanges(self) -> None:
        counter = partial(Counter, namespace="forwarder", registry=self._registry)
        histogram = partial(
            Histogram, namespace="forwarder", registry=self._registry, buckets=_SECONDS
        )
        self._requests = counter("requests_total", "Requests that are over.", (*_WHERE, "status"))
        self._input = counter("input_tokens_total", "Tokens of prompts.", _WHERE)
        self._output = counter("output_tokens_total", "Tokens of answers.", _WHERE)
        self._events = counter("events_total", "Stream events of answers.", _WHERE)
        self._first = histogram(
            "first_event_seconds", "From the request to the first event of its answer.", _WHERE
        )
        self._streams = histogram(
            "stream_seconds", "From the request to the end of its streamed answer.", _WHERE
        )
        self._open = Gauge(
            "open_streams",
            "Streamed answers that are not over.",
            ("route",),
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._dropped = counter(
            "dropped_parameters_total", "Parameters that could not be carried.", ("parameter",)
        )

    def _count_trouble(self) -> None:
        counter = partial(Counter, namespace="forwarder", registry=self._registry)
        self._errors = counter(
            "upstream_errors_total", "Requests that an upstream failed.", ("upstream", "kind")
        )
        self._retries = counter("retries_total", "Requests sent once more.", ("upstream", "reason"))
        self._fallbacks = counter(
            "fallbacks_total", "Requests that went to another upstream.", ("upstream", "to")
        )
        self._refusals = counter("refusals_total", "Requests turned away here.", ("reason",))
        self._breakers = Gauge(
            "breaker_state",
            "0 closed, 1 half open, 2 open; the worst of all workers.",
            ("upstream",),
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livemax",
        )

        self._well = Gauge(
            "upstream_up",
            "1 when the last check found nothing wrong, else 0; the worst of all workers.",
            ("upstream",),
            namespace="forwarder",
            registry=self._registry,
            multiprocess_mode="livemin",
        )
        self._checks = Histogram(
            "upstream_check_seconds",
            "How long checks of upstreams and registered models took.",
            ("upstream",),
            namespace="forwarder",
            registry=self._registry,
            buckets=_SECONDS,
        )

    # -- what is told -----------------------------------------------------------------------------

    def streams(self, exchange: Exchange) -> None:
        self._open.labels(exchange.route).inc()

    def ended(self, exchange: Exchange, seconds: float) -> None:
        answered = exchange.first_event is not None and exchange.fault is None
        upstream = self._upstreams.label(exchange.upstream)
        model = self._models.label(exchange.model, learn=answered)
        where = (exchange.route, upstream, model)
        if exchange.streamed:
            self._open.labels(exchange.route).dec()
        self._requests.labels(*where, exchange.status).inc()
        self._count_answer(exchange, where)
        if exchange.streamed:
            self._streams.labels(*where).observe(seconds)
        for name in exchange.ledger.dropped:
            self._dropped.labels(parameter(name)).inc()
        kind = _kind(exchange)
        if kind is not None:
            self._errors.labels(upstream, kind).inc()

    def _count_answer(self, exchange: Exchange, where: tuple[str, str, str]) -> None:
        if exchange.first_event is None:
            return
        self._first.labels(*where).observe(exchange.first_event - exchange.started)
        self._events.labels(*where).inc(exchange.events)
        for counted, tokens in zip((self._input, self._output), exchange.tokens, strict=True):
            if tokens:
                counted.labels(*where).inc(tokens)

    def retried(self, upstream: str, reason: str) -> None:
        self._retries.labels(self._upstreams.label(upstream), self._reasons.label(reason)).inc()

    def failed(self, upstream: str, error: errors.ForwarderError) -> None:
        kind = _kind_of(type(error), error.status)
        if kind is not None:
            self._errors.labels(self._upstreams.label(upstream), kind).inc()

    def fell_back(self, upstream: str, to: str, reason: str) -> None:
        self._fallbacks.labels(self._upstreams.label(upstream), self._upstreams.label(to)).inc()

    def breaker(self, upstream: str, state: str) -> None:
        self._breakers.labels(self._upstreams.label(upstream)).set(_STATES[state])

    def refused(self, reason: str, upstream: str | None = None) -> None:
        self._refusals.labels(self._reasons.label(reason)).inc()

    def checked(self, upstream: str, well: bool, seconds: float) -> None:
        name = self._upstreams.label(upstream)
        self._well.labels(name).set(int(well))
        self._checks.labels(name).observe(seconds)

    # -- what is told on --------------------------------------------------------------------------

    def text(self) -> bytes:
        """Everything counted so far, by all workers, in Prometheus' text format."""
        return generate_latest(self._everybody())

    def _everybody(self) -> CollectorRegistry:
        together = CollectorRegistry()
        try:
            MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        except ValueError:  # this process is alone
            return self._registry
        return together


def _kind(exchange: Exchange) -> str | None:
    """How the upstream failed, if it did."""
    if exchange.fault is None:
        return "failed" if exchange.error else None
    return _kind_of(exchange.fault, exchange.status)


def _kind_of(fault: type[errors.ForwarderError], status: int) -> str | None:
    if fault is errors.UpstreamRefused:
        return _refusal(status)
    if fault is errors.UpstreamUnavailable:  # it was not even asked
        return None
    named = (kind for error, kind in _KINDS.items() if issubclass(fault, error))
    return next(named, OTHER if issubclass(fault, errors.UpstreamError) else None)


def _refusal(status: int) -> str:
    if status == 429:
        return "rate_limited"
    return "refused" if status < 500 else "server_error"
