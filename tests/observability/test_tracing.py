"""Spans of requests and upstream requests, and trace propagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension
from tests.helpers.tracing import need_opentelemetry
from tests.server.conftest import Answer, make_stream_response

need_opentelemetry()

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import (  # noqa: E402
    BatchSpanProcessor,
    SimpleSpanProcessor,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from forwarder.observability.tracing import TracingObserver  # noqa: E402

CHUNKS = (
    {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30}},
)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TracedApp:
    """An application with recorded spans, and the requests that its upstreams received."""

    def __init__(self, client: FlaskClient, exporter: InMemorySpanExporter) -> None:
        self.client = client
        self.requests: list[httpx2.Request] = []
        self._exporter = exporter

    def send(self, path: str = "/v1/responses", **more: Any) -> Any:
        headers = more.pop("headers", {})
        body = {"model": "chat/m", "input": "a secret prompt", **more}
        return self.client.post(path, json=body, headers=headers, buffered=True)

    def spans(self) -> tuple[ReadableSpan, list[ReadableSpan]]:
        """Return the request span and the spans of its upstream requests."""
        finished = self._exporter.get_finished_spans()
        [server] = [span for span in finished if span.kind is SpanKind.SERVER]
        return server, [span for span in finished if span.kind is SpanKind.CLIENT]


@pytest.fixture
def make_traced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TracedApp]:
    def make(answer: Answer = lambda _: make_stream_response(*CHUNKS)) -> TracedApp:
        def record_request(request: httpx2.Request) -> httpx2.Response:
            traced.requests.append(request)
            return answer(request)

        transport = httpx2.MockTransport(record_request)
        monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
        url = "http://up.test/v1"
        app = create_app(Settings.from_env({"CHAT_BASE_URL": url, "RESPONSES_BASE_URL": url}))
        provider, exporter = TracerProvider(), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        get_extension(app).services.observers.append(TracingObserver(provider))
        traced = TracedApp(app.test_client(), exporter)
        return traced

    return make


def test_a_long_name_of_a_model_is_cut(make_traced: Callable[..., TracedApp]) -> None:
    traced = make_traced()

    traced.send(model="chat/" + "m" * 2000)

    server, [call] = traced.spans()
    for span in (server, call):
        assert span.name == "chat " + "m" * 200 + "…"
        assert dict(span.attributes or {})["gen_ai.request.model"] == "m" * 200 + "…"


@pytest.mark.parametrize("stream", [True, False])
def test_request_span_has_upstream_child_span(
    stream: bool, make_traced: Callable[..., TracedApp]
) -> None:
    traced = make_traced()

    got = traced.send(stream=stream, no_such=1)

    server, [call] = traced.spans()
    attributes = dict(server.attributes or {})
    assert attributes.pop("gen_ai.response.time_to_first_chunk") > 0
    assert server.name == "chat m"
    assert server.status.status_code is StatusCode.UNSET
    assert attributes == {
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": stream,
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 9,
        "forwarder.request_id": got.headers["X-Request-Id"],
        "forwarder.route": "responses",
        "forwarder.client": "anonymous",
        "forwarder.upstream": "chat",
        "forwarder.dropped": ("no_such",),
    }
    assert call.name == "chat m"
    assert dict(call.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 21,
        "gen_ai.usage.output_tokens": 9,
        "forwarder.upstream": "chat",
        "forwarder.protocol": "chat",
    }
    assert call.parent is not None
    assert call.parent.span_id == server.context.span_id
    assert server.start_time <= call.start_time <= call.end_time <= server.end_time


@pytest.mark.parametrize(
    ("path", "operation", "route"),
    [
        ("/api/generate", "chat", "ollama_generate"),
        ("/api/embeddings", "embeddings", "ollama_embeddings"),
        ("/v1/embeddings", "embeddings", "embeddings"),
    ],
)
def test_span_attributes_describe_the_request(
    path: str, operation: str, route: str, make_traced: Callable[..., TracedApp]
) -> None:
    vectors = httpx2.Response(200, json={"data": [{"embedding": [1.0]}]})
    traced = make_traced(
        lambda request: vectors if "embed" in request.url.path else make_stream_response(*CHUNKS)
    )

    assert traced.send(path, prompt="hi").status_code == 200

    server, [call] = traced.spans()
    assert server.name == call.name == f"{operation} m"
    for span in (server, call):
        assert (span.attributes or {})["gen_ai.operation.name"] == operation
    assert (server.attributes or {})["forwarder.route"] == route


def test_a_client_s_trace_continues_at_the_upstream(make_traced: Callable[..., TracedApp]) -> None:
    traced = make_traced()

    traced.send(headers={"traceparent": PARENT, "tracestate": "vendor=1"})

    server, [call] = traced.spans()
    assert server.parent is not None
    assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert {f"{span.context.trace_id:032x}" for span in (server, call)} == {trace}
    [request] = traced.requests
    assert request.headers["traceparent"] == f"00-{trace}-{call.context.span_id:016x}-01"
    assert request.headers["tracestate"] == "vendor=1"


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-0-0-00"])
def test_new_trace_without_traceparent(
    traceparent: str, make_traced: Callable[..., TracedApp]
) -> None:
    traced = make_traced()

    traced.send(headers={"traceparent": traceparent} if traceparent else {})

    server, _ = traced.spans()
    assert server.parent is None
    assert f"{server.context.trace_id:032x}" in traced.requests[0].headers["traceparent"]


def test_each_upstream_request_has_its_own_span(make_traced: Callable[..., TracedApp]) -> None:
    response = {"id": "r", "object": "response", "status": "completed", "output": [],
                "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}}  # fmt: skip
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed",
               "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}  # fmt: skip
    event = {"type": "response.completed", "response": {**response, "output": [message]}}
    traced = make_traced(lambda _: make_stream_response(event))

    got = traced.send(
        "/v1/chat/completions",
        model="responses/m", n=3, messages=[{"role": "user", "content": "hi"}],
    )  # fmt: skip

    assert got.status_code == 200, got.text
    server, calls = traced.spans()
    assert len(calls) == 3
    assert all(call.parent and call.parent.span_id == server.context.span_id for call in calls)
    parent_ids = {request.headers["traceparent"].split("-")[2] for request in traced.requests}
    assert parent_ids == {f"{call.context.span_id:016x}" for call in calls}
    assert (server.attributes or {})["gen_ai.usage.output_tokens"] == 12


def test_span_of_a_refusal_has_no_message(make_traced: Callable[..., TracedApp]) -> None:
    error = {"error": {"message": "You said: a secret prompt", "code": "overloaded"}}
    traced = make_traced(lambda _: httpx2.Response(503, json=error))

    traced.send()

    server, [call] = traced.spans()
    for span in (server, call):
        assert span.status.status_code is StatusCode.ERROR
        attributes = dict(span.attributes or {})
        assert (attributes["error.type"], attributes["http.response.status_code"]) == (
            "overloaded",
            503,
        )
        assert "secret" not in span.to_json()


def test_client_error_does_not_mark_the_span_as_failed(
    make_traced: Callable[..., TracedApp],
) -> None:
    traced = make_traced()

    traced.send(temperature="hot")

    server, calls = traced.spans()
    assert calls == []
    assert server.status.status_code is StatusCode.UNSET
    assert (server.attributes or {})["http.response.status_code"] == 400


@pytest.mark.usefixtures("_short_backoff")
def test_a_stream_that_breaks_ends_its_spans(make_traced: Callable[..., TracedApp]) -> None:
    def break_stream() -> Any:
        yield b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n'
        raise httpx2.ReadError("gone")

    traced = make_traced(lambda _: httpx2.Response(200, content=break_stream()))

    traced.send(stream=True)

    server, [call] = traced.spans()
    for span in (server, call):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == "upstream_disconnected"


def test_client_disconnect_ends_spans(make_traced: Callable[..., TracedApp]) -> None:
    traced = make_traced()
    body = {"model": "chat/m", "input": "hi", "stream": True}

    traced.client.post("/v1/responses", json=body).close()

    server, [call] = traced.spans()
    assert server.end_time >= call.end_time


def test_files_are_traced_without_a_model(make_traced: Callable[..., TracedApp]) -> None:
    traced = make_traced(lambda _: httpx2.Response(200, json={"data": []}))

    traced.client.get("/v1/files", buffered=True)

    server, calls = traced.spans()
    assert (server.name, calls) == ("files", [])
    assert f"{server.context.span_id:016x}" in traced.requests[0].headers["traceparent"]


def test_finished_spans_are_exported_when_the_observer_is_closed() -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    provider.get_tracer("test").start_span("last").end()

    TracingObserver(provider).close()

    assert [span.name for span in exporter.get_finished_spans()] == ["last"]
