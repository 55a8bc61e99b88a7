"""The latest probe results of each upstream and registered model.

Health checks run on request and, if the operator enables it, periodically in the background. Each
worker runs its own checks because each worker has its own connections.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from forwarder.config.settings import UpstreamSettings
from forwarder.context.request_context import RequestObserver
from forwarder.core.periodic_task import PeriodicTask
from forwarder.models.health_probe import ProbeResult, probe_model_list
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.registry import ModelRegistry
from forwarder.upstream.client import Upstream
from forwarder.upstream.upstream_map import PerUpstream

_jitter = random.Random()
"""A separate generator, so that the background thread does not consume the seeded global one."""

log = logging.getLogger("forwarder.health")

_MAX_CONCURRENT_CHECKS = 16

HISTORY_SIZE = 120
"""Results that are kept of each target."""


class HealthTarget(NamedTuple):
    """An upstream to check, optionally with one of its models.

    ``probe`` sends a small request to the model. It is used when the upstream's model list does
    not show whether the upstream knows the model.
    """

    name: str
    upstream: Upstream
    model: str | None
    probe: Callable[[], ProbeResult] | None = None


class HealthHistory:
    """The latest results of one target, oldest first, at least one.

    ``since`` is the time, in Unix seconds, of the first result that agrees with the last one about
    whether the target is healthy.
    """

    def __init__(self, upstream: Upstream, first: ProbeResult) -> None:
        self.upstream = upstream
        self.results = deque([first], HISTORY_SIZE)
        self.since = first.checked_at

    @property
    def last(self) -> ProbeResult:
        """The last result."""
        return self.results[-1]

    def add(self, result: ProbeResult) -> None:
        """Add a result."""
        if result.is_healthy is not self.last.is_healthy:
            self.since = result.checked_at
        self.results.append(result)


class HealthTargets:
    """Lists the targets: ``configured`` upstreams, and registered models with a host.

    ``probe`` sends a small request to a registered model.
    """

    def __init__(
        self,
        configured: Sequence[UpstreamSettings],
        upstreams: PerUpstream[Upstream],
        registry: ModelRegistry,
        probe: Callable[[RegisteredModel], ProbeResult],
    ) -> None:
        self._configured = configured
        self._upstreams = upstreams
        self._registry = registry
        self._probe = probe

    def list_targets(self) -> Iterator[HealthTarget]:
        """Yield all current targets."""
        for settings in self._configured:
            yield self.make_configured_target(settings)
        for remote in self._registry.list_models():
            target = self.make_target(remote)
            if target is not None:
                yield target

    def make_configured_target(self, settings: UpstreamSettings) -> HealthTarget:
        """Return the target of a configured upstream."""
        return HealthTarget(settings.name, self._upstreams.get_or_create(settings), None)

    def make_target(self, remote: RegisteredModel) -> HealthTarget | None:
        """Return the target of a registered model, or None if it has no host or no key."""
        if not remote.host or remote.locked:
            return None
        probe = partial(self._probe, remote) if remote.can_answer else None
        upstream = self._upstreams.get_or_create(remote.upstream)
        return HealthTarget(remote.name, upstream, remote.model, probe)


class HealthMonitor:
    """Checks targets and remembers results of each; ``targets`` lists the current targets.

    Model probes cost tokens, so each model is probed at most once per ``ask_interval`` seconds.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[HealthTarget]],
        observer: RequestObserver,
        ask_interval: float = 0.0,
    ) -> None:
        self._targets = targets
        self._observer = observer
        self._probe_interval = ask_interval
        self._histories: dict[str, HealthHistory] = {}
        self._probe_times: dict[str, tuple[Upstream, float]] = {}
        self._checks: PeriodicTask | None = None

    def get_last_result(self, name: str, upstream: Upstream) -> ProbeResult | None:
        """Return the last result for this upstream object.

        Returns ``None`` without a result, or if the name was registered again since.
        """
        history = self.get_history(name, upstream)
        return None if history is None else history.last

    def get_history(self, name: str, upstream: Upstream) -> HealthHistory | None:
        """Return the latest results for this upstream object, as `get_last_result` does."""
        history = self._histories.get(name)
        return history if history is not None and history.upstream is upstream else None

    def record_result(self, target: HealthTarget, result: ProbeResult) -> ProbeResult:
        """Store a result, notify the observer and log changes; returns the stored result.

        A healthy result that leaves ``is_model_known`` open inherits it from the previous one.
        """
        history = self.get_history(target.name, target.upstream)
        before = None if history is None else history.last
        if result.is_healthy and result.is_model_known is None and before and before.is_healthy:
            result = replace(result, is_model_known=before.is_model_known)
        if history is None:
            self._histories[target.name] = HealthHistory(target.upstream, result)
        else:
            history.add(result)
        self._observer.on_health_check(target.name, result.is_healthy, result.latency)
        if not result.is_healthy and (before is None or before.is_healthy):
            log.warning(
                "'%s' is unhealthy: %s",
                target.name,
                result.error,
                extra={"event": "target_unhealthy"},
            )
        elif result.is_healthy and before is not None and not before.is_healthy:
            log.warning("'%s' is healthy again", target.name, extra={"event": "target_recovered"})
        return result

    def check_target(self, target: HealthTarget, max_age: float) -> ProbeResult:
        """Return a result for one target that is at most ``max_age`` seconds old."""
        last = self.get_last_result(target.name, target.upstream)
        if last is not None and time.time() - last.checked_at < max_age:
            return last
        result = probe_model_list(target.upstream, target.model)
        if target.probe is not None and result.is_healthy and result.is_model_known is None:
            result = self._probe_unlisted_model(target, result, last)
        return self.record_result(target, result)

    def _probe_unlisted_model(
        self, target: HealthTarget, list_result: ProbeResult, last: ProbeResult | None
    ) -> ProbeResult:
        """Probe a model that the list does not show.

        The probe is skipped if the model is already known to work, or if it was probed within the
        interval; then the last failure remains valid.
        """
        if last is not None and last.is_healthy and last.is_model_known:
            return list_result
        if not self._start_probe_interval(target):
            return list_result if last is None or last.is_healthy else last
        result = target.probe() if target.probe is not None else list_result
        return list_result if result.fault == "request" else result

    def _start_probe_interval(self, target: HealthTarget) -> bool:
        """Start a new probe interval if the last one has elapsed; return whether it has."""
        upstream, probed_at = self._probe_times.get(target.name, (None, 0.0))
        now = time.monotonic()
        if upstream is target.upstream and now - probed_at < self._probe_interval:
            return False
        self._probe_times[target.name] = target.upstream, now
        return True

    def check_all(self, max_age: float) -> dict[str, ProbeResult]:
        """Check all targets in parallel; each result is at most ``max_age`` seconds old."""
        targets = list(self._targets())
        with ThreadPoolExecutor(max(1, min(_MAX_CONCURRENT_CHECKS, len(targets)))) as pool:
            results = pool.map(lambda target: self.check_target(target, max_age), targets)
            return {target.name: result for target, result in zip(targets, results, strict=True)}

    def start(self, interval: float) -> None:
        """Check all targets in the background now and every ``interval`` seconds until `stop`."""
        self._checks = PeriodicTask(
            self._check_and_forget, partial(vary_pause, interval), runs_at_once=True
        )
        self._checks.start()

    def stop(self) -> None:
        """End the background checks, if there are any."""
        if self._checks is not None:
            self._checks.stop()

    def _check_and_forget(self) -> None:
        try:
            self._forget_missing(self.check_all(0.0))
        except Exception:
            log.exception("health checks failed", extra={"event": "health_checks_failed"})

    def _forget_missing(self, current: Iterable[str]) -> None:
        for name in set(self._histories) - set(current):
            self._histories.pop(name, None)
            self._probe_times.pop(name, None)


def record_verification(
    targets: HealthTargets, monitor: HealthMonitor, remote: RegisteredModel, result: ProbeResult
) -> None:
    """Store the result of the probe with which a model was registered."""
    target = targets.make_target(remote)
    if target is not None:
        monitor.record_result(target, result)


def vary_pause(interval: float) -> float:
    """Return about ``interval`` seconds: jitter keeps the workers from probing in step."""
    return interval * _jitter.uniform(0.9, 1.1)
