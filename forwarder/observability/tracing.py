"""OpenTelemetry's traces: a span for each exchange, and one inside it for each upstream call.

Spans carry what the log line does, under the names of the GenAI semantic conventions; never a key,
a prompt or an answer.  A client's ``traceparent`` is taken up, and handed on to the upstream.

Only this module needs the packages of ``requirements-otel.txt``, and only whoever has an endpoint
for traces imports it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import (
    RequestContext,
    RequestObserver,
    read_event_usage,
    read_token_counts,
)
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, shorten_value
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES
from forwarder.providers import select_profile

EMBEDDING_ROUTES = frozenset({"embeddings", *EMBEDDING_TABLES})
"""Routes on which nothing is written."""

TRACE_HEADERS = ("traceparent", "tracestate")
PROPAGATOR = TraceContextTextMapPropagator()

GENAI_PROVIDERS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "generic": "openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""What the conventions call a provider, where that is not the name of its profile."""


def make_tracing_observer() -> TracingObserver:
    """Traces that are sent to wherever OpenTelemetry's variables say."""
    provider = TracerProvider(resource=make_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return TracingObserver(provider)


def make_resource() -> Resource:
    """What the environment says of this process, which else is called ``forwarder``."""
    found = Resource.create()
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        return found.merge(Resource({"service.name": "forwarder"}))
    return found


class TracingObserver(RequestObserver):
    """Spans of a provider's making, for what becomes of exchanges."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("forwarder")

    def on_request(self, exchange: RequestContext, header: Callable[[str], str | None]) -> None:
        given = {name: value for name in TRACE_HEADERS if (value := header(name))}
        exchange.span = self._tracer.start_span(
            exchange.route, context=PROPAGATOR.extract(given), kind=SpanKind.SERVER
        )

    def instrument(self, call: Handler, route: Route, exchange: RequestContext) -> Handler:
        if exchange.span is None:
            return call

        def handle_request(request: Json) -> EventStream:
            span = self._start_upstream_span(route, exchange)
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    stream = call(request)
            except Exception as error:
                record_error(span, error, exchange)
                end_span(span)
                raise
            # A stream that nobody reads to its end is over with its exchange.
            exchange.cleanup.add(end_span, span)
            return trace_stream(stream, span, exchange)

        return handle_request

    def _start_upstream_span(self, route: Route, exchange: RequestContext) -> Span:
        attributes = {
            "gen_ai.operation.name": read_operation(exchange),
            "gen_ai.provider.name": read_provider(route.upstream),
            "gen_ai.request.model": shorten_value(route.model),
            "forwarder.upstream": route.upstream.name,
            "forwarder.protocol": route.protocol,
        }
        return self._tracer.start_span(
            f"{read_operation(exchange)} {shorten_value(route.model)}",
            context=trace.set_span_in_context(exchange.span),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )

    def trace_headers(self, exchange: RequestContext) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        inner = trace.get_current_span()
        span = inner if inner.get_span_context().is_valid else exchange.span
        if span is not None:
            PROPAGATOR.inject(headers, context=trace.set_span_in_context(span))
        return headers

    def on_complete(self, exchange: RequestContext, seconds: float) -> None:
        span = exchange.span
        if span is None:
            return
        if exchange.model is not None:
            span.update_name(f"{read_operation(exchange)} {shorten_value(exchange.model)}")
        for name, value in iterate_attributes(exchange):
            if value is not None:
                span.set_attribute(name, value)
        if exchange.status >= 500 or (exchange.error and exchange.status < 400):
            span.set_status(StatusCode.ERROR, exchange.error)
        span.end()


def read_operation(exchange: RequestContext) -> str:
    """What the conventions call that which is asked for."""
    return "embeddings" if exchange.route in EMBEDDING_ROUTES else "chat"


def iterate_attributes(exchange: RequestContext) -> Iterator[tuple[str, Any]]:
    input_tokens, output_tokens = exchange.token_counts
    yield "http.response.status_code", exchange.status
    yield "error.type", exchange.error
    if exchange.model is not None:
        yield "gen_ai.operation.name", read_operation(exchange)
        yield "gen_ai.request.model", shorten_value(exchange.model)
    yield "gen_ai.request.stream", exchange.is_streamed
    yield "gen_ai.usage.input_tokens", input_tokens
    yield "gen_ai.usage.output_tokens", output_tokens
    if exchange.first_event_at is not None:
        yield "gen_ai.response.time_to_first_chunk", exchange.first_event_at - exchange.started_at
    yield "forwarder.request_id", exchange.id
    yield "forwarder.route", exchange.route
    yield "forwarder.upstream", exchange.upstream
    yield "forwarder.dropped", sorted(exchange.loss_report.losses) or None


def trace_stream(stream: EventStream, span: Span, exchange: RequestContext) -> EventStream:
    """The stream as it is; its span learns how it ended, and what it cost."""
    usage: Json = {}
    try:
        for batch in stream:
            if batch:
                usage = read_event_usage(batch[-1]) or usage
            yield batch
    except Exception as error:
        record_error(span, error, exchange)
        raise
    finally:
        for name, tokens in zip(("input", "output"), read_token_counts(usage), strict=True):
            if tokens is not None and span.is_recording():
                span.set_attribute(f"gen_ai.usage.{name}_tokens", tokens)
        end_span(span)


def record_error(span: Span, error: Exception, exchange: RequestContext) -> None:
    """What went wrong, by its name alone: a provider's message may quote a prompt."""
    if exchange.is_cancelled or not span.is_recording():
        return
    known = isinstance(error, ForwarderError) and error.code
    span.set_attribute("error.type", known or type(error).__name__)
    if isinstance(error, ForwarderError):
        span.set_attribute("http.response.status_code", error.status)
    span.set_status(StatusCode.ERROR)


def end_span(span: Span) -> None:
    if span.is_recording():  # ending one twice is a warning in the log
        span.end()


@functools.cache
def read_provider(upstream: UpstreamSettings) -> str:
    name = select_profile(upstream.provider, upstream.base_url, upstream.quirks).name
    return GENAI_PROVIDERS.get(name, name)
