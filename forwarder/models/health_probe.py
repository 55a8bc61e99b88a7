"""Probes of an upstream: is it reachable, does it accept the key, does it know the model?

Reading the model list is free but cannot always answer the last question. A small model request
answers all three and costs a few tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from forwarder.context.request_context import RequestContext, Route
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
"""Timeout of a probe."""

_PROBE_BODIES = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16},
    "responses": {"input": "Hi", "max_output_tokens": 16, "store": False},
}
"""The smallest requests that every model accepts."""


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe; a flag is ``None`` if the probe could not determine it.

    ``fault`` is ``None`` for a healthy upstream, otherwise ``host``, ``key``, ``model`` or
    ``request``. ``error`` is its message. ``latency`` is in seconds, ``checked_at`` in Unix
    seconds. ``model_count`` is the length of the model list, ``None`` if none was read.
    """

    is_reachable: bool | None = None
    is_key_accepted: bool | None = None
    is_model_known: bool | None = None
    fault: str | None = None
    error: str | None = None
    latency: float = 0.0
    checked_at: float = 0.0
    model_count: int | None = None

    @property
    def is_healthy(self) -> bool:
        """True if the probe found no fault."""
        return self.fault is None

    def to_json(self) -> Json:
        """Return the result as JSON, with the latency in milliseconds."""
        fields = {
            "reachable": self.is_reachable,
            "key_accepted": self.is_key_accepted,
            "model_known": self.is_model_known,
            "error": self.error,
            "latency_ms": round(self.latency * 1000, 1),
            "checked_at": round(self.checked_at, 3),
        }
        return {name: value for name, value in fields.items() if name != "error" or value}


def probe_model(upstream: Upstream, route: Route) -> ProbeResult:
    """Probe a model with a small streamed request; closes the stream once it has started."""
    context = RequestContext(generate_id("check"), "check", LossReport())
    body: Json = {**_PROBE_BODIES[route.protocol], "stream": True, "model": route.model}

    def send_probe() -> ProbeResult:
        try:
            upstream.make_handler(route, route.protocol, context)(body)
        finally:
            context.cleanup.close()
        return ProbeResult(True, True, True)

    return measure_probe(send_probe, route.model)


def probe_model_list(upstream: Upstream, model: str | None = None) -> ProbeResult:
    """Probe an upstream by its model list.

    ``is_model_known`` is true if the list has ``model``, otherwise ``None``: a list may omit models
    that the upstream serves.
    """

    def read_list() -> ProbeResult:
        names = {str(each["id"]) for each in upstream.list_models(CHECK_TIMEOUT_SECONDS)}
        is_known = True if model in names else None
        return ProbeResult(True, True, is_known, model_count=len(names))

    result = measure_probe(read_list, None)
    # In passthrough mode the forwarder has no key of its own that could be accepted.
    if result.fault == "key" and upstream.settings.passthrough_key:
        return replace(result, is_key_accepted=None, fault=None, error=None)
    return result


def measure_probe(send: Callable[[], ProbeResult], model: str | None) -> ProbeResult:
    started_at, checked_at = time.monotonic(), time.time()
    try:
        result = send()
    except ForwarderError as error:
        result = classify_failure(error, model)
    return replace(result, latency=time.monotonic() - started_at, checked_at=checked_at)


def classify_failure(error: ForwarderError, model: str | None) -> ProbeResult:
    """Convert a failed probe to a result; ``model`` is ``None`` for a model list probe."""
    if isinstance(error, UpstreamUnreachable | UpstreamTimeout):
        return ProbeResult(False, fault="host", error=error.message)
    if isinstance(error, UpstreamKeyRefused):
        return ProbeResult(True, False, fault="key", error=error.message)
    if not isinstance(error, UpstreamRefused):
        fault = "host" if isinstance(error, UpstreamError) else "request"
        return ProbeResult(True, fault=fault, error=error.message)
    return classify_list_refusal(error) if model is None else classify_refusal(error, model)


def classify_refusal(error: UpstreamRefused, model: str) -> ProbeResult:
    about_model = is_about_model(error, model)
    if error.status in (402, 429):  # the key is valid; its quota is exhausted
        return ProbeResult(True, True)
    if error.status in (401, 403) and not about_model:
        return ProbeResult(True, False, fault="key", error=error.message)
    if about_model:
        return ProbeResult(True, True, False, fault="model", error=error.message)
    if error.status in (404, 405):
        message = f"the host does not serve this API ({error.message})"
        return ProbeResult(True, fault="host", error=message)
    if error.status >= 500:
        return ProbeResult(True, fault="host", error=error.message)
    return ProbeResult(True, True, fault="request", error=error.message)


def classify_list_refusal(error: UpstreamRefused) -> ProbeResult:
    if error.status in (401, 403):
        return ProbeResult(True, False, fault="key", error=error.message)
    if error.status >= 500:
        return ProbeResult(True, fault="host", error=error.message)
    return ProbeResult(True)  # not every provider lists its models


def is_about_model(error: UpstreamRefused, model: str) -> bool:
    if error.kind is ErrorKind.MODEL_NOT_FOUND:
        return True
    mentions_model = model in error.message or "model" in error.message.lower()
    return mentions_model and error.status == 404
