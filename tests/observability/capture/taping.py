"""Tapes and records, without a forwarder around them."""

from __future__ import annotations

import json
import time
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.recorder import Asked, Tape
from forwarder.context.redaction import Redaction
from forwarder.context.request_context import Exchange
from forwarder.core.translation_context import Ledger
from forwarder.observability.capture.record import encoded
from forwarder.observability.capture.stores import new_name

UPSTREAM: UpstreamSettings = Settings.from_env(
    {"CHAT_BASE_URL": "http://up.test/v1", "CHAT_API_KEY": "sk-upstream"}
).upstreams[0]
URL = "http://up.test/v1/chat/completions"


def tape(limit: int = 10_000, method: str = "POST") -> Tape:
    asked = Asked(method, "/v1/responses", [("key", "k")], [("Authorization", "Bearer sk-client")])
    return Tape(asked, limit, time.monotonic())


def exchange(**more: Any) -> Exchange:
    return Exchange(id="req_1", route="responses", ledger=Ledger(), **more)


def record(of: Tape, limit: int = 10_000, *fields: str, **more: Any) -> dict[str, Any]:
    """The record of a tape, which is as long as it may be."""
    said = encoded(new_name(1.0), of, exchange(**more), 0.5, Redaction(fields), limit)
    assert len(said) <= limit
    made: dict[str, Any] = json.loads(said)
    return made
