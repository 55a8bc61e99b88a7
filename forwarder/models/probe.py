"""Is a remote there, does it accept the key, does it know the model?

Its list of models tells most of it for nothing; a small request tells all, and costs a few tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from forwarder.context.request_context import RequestContext
from forwarder.context.route import Route
from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import (
    ForwarderError,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.upstream.client import Upstream

CHECK_TIMEOUT_SECONDS = 20.0
"""Seconds that a remote has for each of the two."""

_PROBE_BODIES = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16},
    "responses": {"input": "Hi", "max_output_tokens": 16, "store": False},
}
"""As small as a request can be that every model takes."""


@dataclass(frozen=True)
class ProbeResult:
    """What was found; ``None`` is what could not be told.

    ``fault`` names what is (``host``, ``is_key_accepted``, ``is_model_known`` or ``request``), ``error`` says how.
    ``latency`` is in seconds, ``checked_at`` in Unix seconds.
    """

    is_reachable: bool | None = None
    is_key_accepted: bool | None = None
    is_model_known: bool | None = None
    fault: str | None = None
    error: str | None = None
    latency: float = 0.0
    checked_at: float = 0.0

    @property
    def is_healthy(self) -> bool:
        """Was nothing wrong?"""
        return self.fault is None

    def to_json(self) -> Json:
        """As JSON: the latency in milliseconds."""
        found = {
            "reachable": self.is_reachable,
            "key_accepted": self.is_key_accepted,
            "model_known": self.is_model_known,
            "error": self.error,
            "latency_ms": round(self.latency * 1000, 1),
            "checked_at": round(self.checked_at, 3),
        }
        return {name: value for name, value in found.items() if name != "error" or value}


def probe_model(upstream: Upstream, route: Route) -> ProbeResult:
    """What a small request finds out; its answer is left when it has begun."""
    exchange = RequestContext(generate_id("check"), "check", LossReport())
    body: Json = {**_PROBE_BODIES[route.protocol], "stream": True, "model": route.model}

    def send_probe() -> ProbeResult:
        try:
            upstream.make_handler(route, route.protocol, exchange)(body)
        finally:
            exchange.cleanup.close()
        return ProbeResult(True, True, True)

    return measure_probe(send_probe, route.model)


def probe_model_list(upstream: Upstream, model: str | None = None) -> ProbeResult:
    """What the list of models finds out; that a model is not in it proves nothing."""

    def read_list() -> ProbeResult:
        names = {str(each["id"]) for each in upstream.list_models(CHECK_TIMEOUT_SECONDS)}
        return ProbeResult(True, True, True if model in names else None)

    found = measure_probe(read_list, None)
    if found.fault == "key" and upstream.settings.passthrough_key:  # there is none to be accepted
        return replace(found, is_key_accepted=None, fault=None, error=None)
    return found


def measure_probe(ask: Callable[[], ProbeResult], model: str | None) -> ProbeResult:
    began, at = time.monotonic(), time.time()
    try:
        found = ask()
    except ForwarderError as error:
        found = judge_failure(error, model)
    return replace(found, latency=time.monotonic() - began, checked_at=at)


def judge_failure(error: ForwarderError, model: str | None) -> ProbeResult:
    """What a failure says; ``is_model_known`` is what was asked for, if one was."""
    if isinstance(error, UpstreamUnreachable | UpstreamTimeout):
        return ProbeResult(False, fault="host", error=error.message)
    if isinstance(error, UpstreamKeyRefused):
        return ProbeResult(True, False, fault="key", error=error.message)
    if not isinstance(error, UpstreamRefused):
        wrong = "host" if isinstance(error, UpstreamError) else "request"
        return ProbeResult(True, fault=wrong, error=error.message)
    return judge_refusal(error, model)


def judge_refusal(error: UpstreamRefused, model: str | None) -> ProbeResult:
    if model is None:  # not every provider lists its models
        return judge_list_refusal(error)
    about_model = is_about_model(error, model)
    if error.status in (402, 429):  # it knows who asks, and has had enough of it
        return ProbeResult(True, True)
    if error.status in (401, 403) and not about_model:
        return ProbeResult(True, False, fault="key", error=error.message)
    if about_model:
        return ProbeResult(True, True, False, fault="model", error=error.message)
    if error.status in (404, 405):
        return ProbeResult(True, fault="host", error=f"there is no such API ({error.message})")
    if error.status >= 500:
        return ProbeResult(True, fault="host", error=error.message)
    return ProbeResult(True, True, fault="request", error=error.message)


def judge_list_refusal(error: UpstreamRefused) -> ProbeResult:
    if error.status in (401, 403):
        return ProbeResult(True, False, fault="key", error=error.message)
    if error.status >= 500:
        return ProbeResult(True, fault="host", error=error.message)
    return ProbeResult(True)


def is_about_model(error: UpstreamRefused, model: str) -> bool:
    if error.kind is ErrorKind.MODEL_NOT_FOUND:
        return True
    named = model in error.message or "model" in error.message.lower()
    return named and error.status == 404
