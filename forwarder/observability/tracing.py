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
from forwarder.context.request_context import Exchange, Observer, tokens_of, usage_of
from forwarder.context.route import Route
from forwarder.core.errors import ForwarderError, shorten
from forwarder.core.types import Call, Json, Stream
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES
from forwarder.providers import profile_for

_EMBEDDING = frozenset({"embeddings", *EMBEDDING_TABLES})
"""Routes on which nothing is written."""

_HEADERS = ("traceparent", "tracestate")
_W3C = TraceContextTextMapPropagator()

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "generic": "openai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""What the conventions call a provider, where that is not the name of its profile."""


def tracing() -> Tracing:
    """Traces that are sent to wherever OpenTelemetry's variables say."""
    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _resource() -> Resource:
    """What the environment says of this process, which else is called ``forwarder``."""
    found = Resource.create()
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        return found.merge(Resource({"service.name": "forwarder"}))
    return found


class Tracing(Observer):
    """Spans of a provider's making, for what becomes of exchanges."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("forwarder")

    def began(self, exchange: Exchange, header: Callable[[str], str | None]) -> None:
        given = {name: value for name in _HEADERS if (value := header(name))}
        exchange.span = self._tracer.start_span(
            exchange.route, context=_W3C.extract(given), kind=SpanKind.SERVER
        )

    def watched(self, call: Call, route: Route, exchange: Exchange) -> Call:
        if exchange.span is None:
            return call

        def traced(request: Json) -> Stream:
            span = self._upstream_span(route, exchange)
            try:
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    stream = call(request)
            except Exception as error:
                _fail(span, error, exchange)
                _end(span)
                raise
            # A stream that nobody reads to its end is over with its exchange.
            exchange.opened.add(_end, span)
            return _followed(stream, span, exchange)

        return traced

    def _upstream_span(self, route: Route, exchange: Exchange) -> Span:
        attributes = {
            "gen_ai.operation.name": _operation(exchange),
            "gen_ai.provider.name": _provider(route.upstream),
            "gen_ai.request.model": shorten(route.model),
            "forwarder.upstream": route.upstream.name,
            "forwarder.protocol": route.protocol,
        }
        return self._tracer.start_span(
            f"{_operation(exchange)} {shorten(route.model)}",
            context=trace.set_span_in_context(exchange.span),
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )

    def onward(self, exchange: Exchange) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        inner = trace.get_current_span()
        span = inner if inner.get_span_context().is_valid else exchange.span
        if span is not None:
            _W3C.inject(headers, context=trace.set_span_in_context(span))
        return headers

    def ended(self, exchange: Exchange, seconds: float) -> None:
        span = exchange.span
        if span is None:
            return
        if exchange.model is not None:
            span.update_name(f"{_operation(exchange)} {shorten(exchange.model)}")
        for name, value in _attributes(exchange):
            if value is not None:
                span.set_attribute(name, value)
        if exchange.status >= 500 or (exchange.error and exchange.status < 400):
            span.set_status(StatusCode.ERROR, exchange.error)
        span.end()


def _operation(exchange: Exchange) -> str:
    """What the conventions call that which is asked for."""
    return "embeddings" if exchange.route in _EMBEDDING else "chat"


def _attributes(exchange: Exchange) -> Iterator[tuple[str, Any]]:
    input_tokens, output_tokens = exchange.tokens
    yield "http.response.status_code", exchange.status
    yield "error.type", exchange.error
    if exchange.model is not None:
        yield "gen_ai.operation.name", _operation(exchange)
        yield "gen_ai.request.model", shorten(exchange.model)
    yield "gen_ai.request.stream", exchange.streamed
    yield "gen_ai.usage.input_tokens", input_tokens
    yield "gen_ai.usage.output_tokens", output_tokens
    if exchange.first_event is not None:
        yield "gen_ai.response.time_to_first_chunk", exchange.first_event - exchange.started
    yield "forwarder.request_id", exchange.id
    yield "forwarder.route", exchange.route
    yield "forwarder.upstream", exchange.upstream
    yield "forwarder.dropped", sorted(exchange.ledger.dropped) or None


def _followed(stream: Stream, span: Span, exchange: Exchange) -> Stream:
    """The stream as it is; its span learns how it ended, and what it cost."""
    usage: Json = {}
    try:
        for batch in stream:
            if batch:
                usage = usage_of(batch[-1]) or usage
            yield batch
    except Exception as error:
        _fail(span, error, exchange)
        raise
    finally:
        for name, tokens in zip(("input", "output"), tokens_of(usage), strict=True):
            if tokens is not None and span.is_recording():
                span.set_attribute(f"gen_ai.usage.{name}_tokens", tokens)
        _end(span)


def _fail(span: Span, error: Exception, exchange: Exchange) -> None:
    """What went wrong, by its name alone: a provider's message may quote a prompt."""
    if exchange.left or not span.is_recording():
        return
    known = isinstance(error, ForwarderError) and error.code
    span.set_attribute("error.type", known or type(error).__name__)
    if isinstance(error, ForwarderError):
        span.set_attribute("http.response.status_code", error.status)
    span.set_status(StatusCode.ERROR)


def _end(span: Span) -> None:
    if span.is_recording():  # ending one twice is a warning in the log
        span.end()


@functools.cache
def _provider(upstream: UpstreamSettings) -> str:
    name = profile_for(upstream.provider, upstream.base_url, upstream.quirks).name
    return _PROVIDERS.get(name, name)
