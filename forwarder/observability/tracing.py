"""OpenTelemetry traces: one span per client request, with a child span per upstream request.

Span attributes follow the GenAI semantic conventions and hold the same facts as the log line.
They never contain keys, prompts or answers. The client's ``traceparent`` is continued and passed
on to the upstream.

Only this module needs the packages of ``requirements-otel.txt``. It is imported only if a trace
endpoint is configured.
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
    Route,
    read_event_usage,
    read_token_counts,
)
from forwarder.core.errors import ForwarderError, shorten_value
from forwarder.core.types import EventStream, Handler, Json
from forwarder.protocols.registry import EMBEDDING_PROTOCOLS
from forwarder.providers import select_profile

TRACE_HEADERS = ("traceparent", "tracestate")
PROPAGATOR = TraceContextTextMapPropagator()

GENAI_PROVIDERS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "generic": "openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""Profile name -> ``gen_ai.provider.name``, if they differ."""


def make_tracing_observer() -> TracingObserver:
    """Make the observer; its exporter is configured by OpenTelemetry's environment variables."""
    provider = TracerProvider(resource=make_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return TracingObserver(provider)


def make_resource() -> Resource:
    """Return the resource from the environment, with ``forwarder`` as the default service name."""
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        return resource.merge(Resource({"service.name": "forwarder"}))
    return resource


class TracingObserver(RequestObserver):
    """Creates the spans of client requests and upstream requests."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("forwarder")

    def close(self) -> None:
        """Export the finished spans and stop the exporter."""
        self._provider.shutdown()

    def on_request(self, context: RequestContext, header: Callable[[str], str | None]) -> None:
        headers = {name: value for name in TRACE_HEADERS if (value := header(name))}
        context.span = self._tracer.start_span(
            context.route, context=PROPAGATOR.extract(headers), kind=SpanKind.SERVER
        )

    def instrument(self, handler: Handler, route: Route, context: RequestContext) -> Handler:
        if context.span is None:
            return handler

        def handle_request(request: Json) -> EventStream:
            span = self._start_upstream_span(route, context)
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    stream = handler(request)
            except Exception as error:
                record_error(span, error, context)
                end_span(span)
                raise
            # If the stream is not read to its end, the request's cleanup ends the span.
            context.cleanup.add(end_span, span)
            return trace_stream(stream, span, context)

        return handle_request

    def _start_upstream_span(self, route: Route, context: RequestContext) -> Span:
        attributes = {
            "gen_ai.operation.name": read_operation(context),
            "gen_ai.provider.name": read_provider(route.upstream),
            "gen_ai.request.model": shorten_value(route.model),
            "forwarder.upstream": route.upstream.name,
            "forwarder.protocol": route.protocol,
        }
        return self._tracer.start_span(
            f"{read_operation(context)} {shorten_value(route.model)}",
            context=trace.set_span_in_context(context.span),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )

    def trace_headers(self, context: RequestContext) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        current = trace.get_current_span()
        span = current if current.get_span_context().is_valid else context.span
        if span is not None:
            PROPAGATOR.inject(headers, context=trace.set_span_in_context(span))
        return headers

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        span = context.span
        if span is None:
            return
        if context.model is not None:
            span.update_name(f"{read_operation(context)} {shorten_value(context.model)}")
        for name, value in iterate_attributes(context):
            if value is not None:
                span.set_attribute(name, value)
        if context.status >= 500 or (context.error and context.status < 400):
            span.set_status(StatusCode.ERROR, context.error)
        span.end()


def read_operation(context: RequestContext) -> str:
    """Return ``gen_ai.operation.name``."""
    return "embeddings" if context.route in EMBEDDING_PROTOCOLS else "chat"


def iterate_attributes(context: RequestContext) -> Iterator[tuple[str, Any]]:
    input_tokens, output_tokens = context.token_counts
    yield "http.response.status_code", context.status
    yield "error.type", context.error
    if context.model is not None:
        yield "gen_ai.operation.name", read_operation(context)
        yield "gen_ai.request.model", shorten_value(context.model)
    yield "gen_ai.request.stream", context.is_streamed
    yield "gen_ai.usage.input_tokens", input_tokens
    yield "gen_ai.usage.output_tokens", output_tokens
    if context.first_event_at is not None:
        yield "gen_ai.response.time_to_first_chunk", context.first_event_at - context.started_at
    yield "forwarder.request_id", context.id
    yield "forwarder.route", context.route
    yield "forwarder.client", context.client_name
    yield "forwarder.upstream", context.upstream
    yield "forwarder.dropped", sorted(context.loss_report.losses) or None


def trace_stream(stream: EventStream, span: Span, context: RequestContext) -> EventStream:
    """Pass the stream through; record its usage and outcome in the span."""
    usage: Json = {}
    try:
        for batch in stream:
            if batch:
                usage = read_event_usage(batch[-1]) or usage
            yield batch
    except Exception as error:
        record_error(span, error, context)
        raise
    finally:
        for name, tokens in zip(("input", "output"), read_token_counts(usage), strict=True):
            if tokens is not None and span.is_recording():
                span.set_attribute(f"gen_ai.usage.{name}_tokens", tokens)
        end_span(span)


def record_error(span: Span, error: Exception, context: RequestContext) -> None:
    """Record the type of an error, not its message: a provider's message may quote a prompt."""
    if context.is_cancelled or not span.is_recording():
        return
    known = isinstance(error, ForwarderError) and error.code
    span.set_attribute("error.type", known or type(error).__name__)
    if isinstance(error, ForwarderError):
        span.set_attribute("http.response.status_code", error.status)
    span.set_status(StatusCode.ERROR)


def end_span(span: Span) -> None:
    if span.is_recording():  # OpenTelemetry logs a warning if a span is ended twice
        span.end()


@functools.cache
def read_provider(upstream: UpstreamSettings) -> str:
    name = select_profile(upstream.provider, upstream.base_url, upstream.quirks).name
    return GENAI_PROVIDERS.get(name, name)
