"""Clients of the application with the demo upstream or a mock upstream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings

Answer = Callable[[httpx2.Request], httpx2.Response]
Serve = Callable[..., FlaskClient]


@pytest.fixture
def demo() -> FlaskClient:
    """A client of an application without settings."""
    return create_app(Settings.from_env({})).test_client()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Create a client of an application whose upstreams call the given handler."""

    def make_client(answer: Answer, **environment: str) -> FlaskClient:
        transport = httpx2.MockTransport(answer)
        monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)
        upstreams = {
            "CHAT_BASE_URL": "http://up.test/v1",
            "RESPONSES_BASE_URL": "http://up.test/v1",
        }
        return create_app(Settings.from_env({**upstreams, **environment})).test_client()

    return make_client


def make_stream_response(*events: Any, done: bool = True) -> httpx2.Response:
    """Return an SSE response with these events."""
    frames = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return httpx2.Response(200, text=frames + ("data: [DONE]\n\n" if done else ""))
