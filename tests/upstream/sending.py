"""A scripted provider behind an upstream's client, without sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import UpstreamError
from forwarder.core.translation_context import LossReport
from forwarder.upstream.client import Upstream

KEY = "sk-secret"


ENVIRONMENT = {"UP_BASE_URL": "http://up.test/v1", "UP_API_KEY": KEY, "UP_API": "both"}


CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


Handler = Callable[[httpx2.Request], httpx2.Response]


class Provider:
    """Records its requests and gives all of them the same answer."""

    def __init__(self, answer: Handler | None = None) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer or (lambda _: make_stream(CHUNK))

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.requests.append(request)
        return self._answer(request)

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1].content)


def make_stream(*events: Any) -> httpx2.Response:
    frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return httpx2.Response(200, text=frames + "data: [DONE]\n\n")


def make_refusing_provider(status: int, **answer: Any) -> Provider:
    return Provider(lambda _: httpx2.Response(status, **answer))


def make_upstream(provider: Provider, **environment: str) -> Upstream:
    variables = {"FORWARDER_UPSTREAMS": "up", **ENVIRONMENT, **environment}
    [settings] = Settings.from_env(variables).upstreams
    return Upstream(settings, httpx2.MockTransport(provider), heartbeat=5)


def send_request(
    upstream: Upstream,
    request: dict[str, Any] | None = None,
    protocol: str = "chat",
    client: str = "chat",
    key: str | None = None,
) -> tuple[list[Any], RequestContext]:
    """Send a request; return the events of its answer, and its context."""
    context = RequestContext(id="req_1", route=client, loss_report=LossReport(), client_key=key)
    route = Route(upstream.settings, protocol, "their-model")
    stream = upstream.make_handler(route, client, context)({"model": "ours", **(request or CHAT)})
    return [event for batch in stream for event in batch], context


def get_failure(upstream: Upstream) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        send_request(upstream)
    return caught.value


def send_compaction(upstream: Upstream) -> list[Any]:
    context = RequestContext(id="req_1", route="responses", loss_report=LossReport())
    route = Route(upstream.settings, "responses", "their-model")
    try:
        return list(
            upstream.make_compaction_handler(route, context)({"model": "ours", "input": "hi"})
        )
    finally:
        context.cleanup.close()


def send_embedding(upstream: Upstream) -> list[Any]:
    context = RequestContext(id="req_1", route="embeddings", loss_report=LossReport())
    route = Route(upstream.settings, "chat", "their-model")
    call = upstream.make_embeddings_handler(route, context)
    try:
        return list(call({"model": "ours", "input": ["a"], "vendor": {"x": 1}}))
    finally:
        context.cleanup.close()


def raising(error: Exception) -> Provider:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise error

    return Provider(answer)
