"""Scripted remote providers, and upstreams that use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2

from forwarder.config.settings import UpstreamSettings, make_upstream_settings
from forwarder.upstream.client import Upstream

Answer = Callable[[httpx2.Request], httpx2.Response]

CHUNKS = [
    {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]


def answer_normally(request: httpx2.Request) -> httpx2.Response:
    """A healthy provider of the model ``m``."""
    if request.url.path.endswith("/models"):
        return httpx2.Response(200, json={"data": [{"id": "m"}]})
    if request.url.path.endswith("/responses"):
        events: list[Any] = [{"type": "response.completed", "response": {"output": []}}]
    else:
        events = CHUNKS
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return httpx2.Response(200, text=text + "data: [DONE]\n\n")


def refusing(status: int, message: str = "no", code: str | None = None) -> Answer:
    """A provider that refuses every request."""
    error = {"message": message, "type": "x", "code": code}
    return lambda request: httpx2.Response(status, json={"error": error})


def refuse_connection(request: httpx2.Request) -> httpx2.Response:
    """An unreachable provider."""
    raise httpx2.ConnectError("no route")


def connect_upstream(answer: Answer, settings: UpstreamSettings | None = None) -> Upstream:
    """Return an upstream that uses a remote."""
    settings = settings or make_upstream_settings("mine:latest", base_url="https://remote.test/v1")
    return Upstream(settings, httpx2.MockTransport(answer), 15)
