"""Is a remote there, does it accept the key, does it know the model?

Its list of models tells most of it for nothing; a small request tells all, and costs a few tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from forwarder.context.request_context import Exchange
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
from forwarder.core.ids import random_id
from forwarder.core.translation_context import Ledger
from forwarder.core.types import Json
from forwarder.upstream.client import Upstream

PATIENCE = 20.0
"""Seconds that a remote has for each of the two."""

_SAID = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16},
    "responses": {"input": "Hi", "max_output_tokens": 16, "store": False},
}
"""As small as a request can be that every model takes."""


@dataclass(frozen=True)
class Check:
    """What was found; ``None`` is what could not be told.

    ``wrong`` names what is (``host``, ``key``, ``model`` or ``request``), ``error`` says how.
    ``latency`` is in seconds, ``at`` in Unix seconds.
    """

    reachable: bool | None = None
    key: bool | None = None
    model: bool | None = None
    wrong: str | None = None
    error: str | None = None
    latency: float = 0.0
    at: float = 0.0

    @property
    def is_well(self) -> bool:
        """Was nothing wrong?"""
        return self.wrong is None

    def shown(self) -> Json:
        """As JSON: the latency in milliseconds."""
        found = {
            "reachable": self.reachable,
            "key_accepted": self.key,
            "model_known": self.model,
            "error": self.error,
            "latency_ms": round(self.latency * 1000, 1),
            "checked_at": round(self.at, 3),
        }
        return {name: value for name, value in found.items() if name != "error" or value}


def asked(upstream: Upstream, route: Route) -> Check:
    """What a small request finds out; its answer is left when it has begun."""
    exchange = Exchange(random_id("check"), "check", Ledger())
    body: Json = {**_SAID[route.protocol], "stream": True, "model": route.model}

    def ask() -> Check:
        try:
            upstream.call(route, route.protocol, exchange)(body)
        finally:
            exchange.opened.close()
        return Check(True, True, True)

    return _timed(ask, route.model)


def listed(upstream: Upstream, model: str | None = None) -> Check:
    """What the list of models finds out; that a model is not in it proves nothing."""

    def ask() -> Check:
        names = {str(each["id"]) for each in upstream.models(PATIENCE)}
        return Check(True, True, True if model in names else None)

    found = _timed(ask, None)
    if found.wrong == "key" and upstream.settings.passthrough_key:  # there is none to be accepted
        return replace(found, key=None, wrong=None, error=None)
    return found


def _timed(ask: Callable[[], Check], model: str | None) -> Check:
    began, at = time.monotonic(), time.time()
    try:
        found = ask()
    except ForwarderError as error:
        found = judged(error, model)
    return replace(found, latency=time.monotonic() - began, at=at)


def judged(error: ForwarderError, model: str | None) -> Check:
    """What a failure says; ``model`` is what was asked for, if one was."""
    if isinstance(error, UpstreamUnreachable | UpstreamTimeout):
        return Check(False, wrong="host", error=error.message)
    if isinstance(error, UpstreamKeyRefused):
        return Check(True, False, wrong="key", error=error.message)
    if not isinstance(error, UpstreamRefused):
        wrong = "host" if isinstance(error, UpstreamError) else "request"
        return Check(True, wrong=wrong, error=error.message)
    return _refused(error, model)


def _refused(error: UpstreamRefused, model: str | None) -> Check:
    if model is None:  # not every provider lists its models
        return _unlisted(error)
    about_model = _is_about_model(error, model)
    if error.status in (402, 429):  # it knows who asks, and has had enough of it
        return Check(True, True)
    if error.status in (401, 403) and not about_model:
        return Check(True, False, wrong="key", error=error.message)
    if about_model:
        return Check(True, True, False, wrong="model", error=error.message)
    if error.status in (404, 405):
        return Check(True, wrong="host", error=f"there is no such API ({error.message})")
    if error.status >= 500:
        return Check(True, wrong="host", error=error.message)
    return Check(True, True, wrong="request", error=error.message)


def _unlisted(error: UpstreamRefused) -> Check:
    if error.status in (401, 403):
        return Check(True, False, wrong="key", error=error.message)
    if error.status >= 500:
        return Check(True, wrong="host", error=error.message)
    return Check(True)


def _is_about_model(error: UpstreamRefused, model: str) -> bool:
    if error.kind is ErrorKind.MODEL_NOT_FOUND:
        return True
    named = model in error.message or "model" in error.message.lower()
    return named and error.status == 404
