"""Recorders and records for tests."""

from __future__ import annotations

import json
import time
from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.capture_recorder import Recorder, RequestHead
from forwarder.context.redaction import Redactor
from forwarder.context.request_context import RequestContext
from forwarder.core.translation_context import LossReport
from forwarder.observability.capture.record import encode_record
from forwarder.observability.capture.stores import generate_name

UPSTREAM: UpstreamSettings = Settings.from_env(
    {"CHAT_BASE_URL": "http://up.test/v1", "CHAT_API_KEY": "sk-upstream"}
).upstreams[0]
URL = "http://up.test/v1/chat/completions"


def make_recorder(limit: int = 10_000, method: str = "POST") -> Recorder:
    request_head = RequestHead(
        method, "/v1/responses", [("key", "k")], [("Authorization", "Bearer sk-client")]
    )
    return Recorder(request_head, limit, time.monotonic())


def make_context(**more: Any) -> RequestContext:
    return RequestContext(id="req_1", route="responses", loss_report=LossReport(), **more)


def make_record(
    recorder: Recorder, limit: int = 10_000, *fields: str, **more: Any
) -> dict[str, Any]:
    """Return the record of a recorder; checks that it fits the limit."""
    data = encode_record(
        generate_name(1.0), recorder, make_context(**more), 0.5, Redactor(fields), limit
    )
    assert len(data) <= limit
    record: dict[str, Any] = json.loads(data)
    return record
