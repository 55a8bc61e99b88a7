"""A clock that tests advance, and test doubles around upstream states."""

from __future__ import annotations

from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import ForwarderError
from forwarder.core.translation_context import LossReport


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class RecordingObserver(RequestObserver):
    """An observer that records its notifications."""

    def __init__(self) -> None:
        self.notifications: list[tuple[Any, ...]] = []
        self.failures: list[tuple[str, ForwarderError]] = []

    def on_retry(self, upstream: str, reason: str) -> None:
        self.notifications.append(("retried", upstream, reason))

    def on_failure(self, upstream: str, error: ForwarderError) -> None:
        self.failures.append((upstream, error))

    def on_fallback(self, upstream: str, to: str, reason: str) -> None:
        self.notifications.append(("fell_back", upstream, to, reason))

    def on_breaker_change(self, upstream: str, state: str) -> None:
        self.notifications.append(("breaker", upstream, state))

    def on_rejection(self, reason: str, upstream: str | None = None) -> None:
        self.notifications.append(("refused", reason, upstream))


class PatientContext(RequestContext):
    """A context that waits on a test's clock; its client disconnects at ``leaves_at``."""

    clock: Clock
    pauses: list[float]
    leaves_at: float = float("inf")

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.clock.advance(seconds)
        if self.clock() >= self.leaves_at:
            self.cancel()
        return not self.is_cancelled


def make_patient_context(
    clock: Clock | None = None, leaves_after: float = float("inf")
) -> PatientContext:
    """A context whose waits take no time."""
    context = PatientContext(id="req_1", route="chat", loss_report=LossReport())
    context.clock = clock or Clock()
    context.pauses = []
    context.leaves_at = context.clock() + leaves_after
    return context


def make_settings(names: str = "up", **environment: str) -> Settings:
    """Settings with these upstreams."""
    urls = {f"{name.upper()}_BASE_URL": f"http://{name}.test/v1" for name in names.split(",")}
    return Settings.from_env({"FORWARDER_UPSTREAMS": names, **urls, **environment})


def make_upstream_settings(**environment: str) -> UpstreamSettings:
    """Settings of the upstream ``up``, which may have ``other`` as its fallback."""
    return make_settings(
        "up,other", **{f"UP_{name}": text for name, text in environment.items()}
    ).upstreams[0]
