"""How upstreams and registered models fare: what the last check of each has found.

They are checked when somebody asks, and in the background where the operator wants it.  Each worker
checks for itself, since each has its own connections.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from forwarder.context.request_context import RequestObserver
from forwarder.core.concurrency import spawn
from forwarder.models.probe import ProbeResult, probe_model_list
from forwarder.upstream.client import Upstream

_jitter = random.Random()
"""Its own generator: a thread that goes on must not disturb a program that seeds the shared one."""

log = logging.getLogger("forwarder.health")

_MAX_CONCURRENT_CHECKS = 16


class HealthTarget(NamedTuple):
    """What is checked: an upstream, and the model of it that matters, if one does.

    ``probe`` finds out by a small request whether that is known, where no list tells.
    """

    name: str
    upstream: Upstream
    model: str | None
    probe: Callable[[], ProbeResult] | None = None


class HealthMonitor:
    """The last checks; ``targets`` gives what there is to be checked now.

    A model is asked by a request, which costs tokens, once in ``ask_interval`` seconds at most.
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
        self._results: dict[str, tuple[Upstream, ProbeResult]] = {}
        self._probe_times: dict[str, tuple[Upstream, float]] = {}

    def get_last_result(self, name: str, upstream: Upstream) -> ProbeResult | None:
        """The last check of an upstream; None of one that was registered anew since."""
        checked, check = self._results.get(name, (None, None))
        return check if checked is upstream else None

    def record_result(self, target: HealthTarget, check: ProbeResult) -> ProbeResult:
        """Remember a check; what was not told this time stays as it was."""
        before = self.get_last_result(target.name, target.upstream)
        if check.is_healthy and check.is_model_known is None and before and before.is_healthy:
            check = replace(check, is_model_known=before.is_model_known)
        self._results[target.name] = target.upstream, check
        self._observer.on_health_check(target.name, check.is_healthy, check.latency)
        if not check.is_healthy and (before is None or before.is_healthy):
            log.warning("'%s' is not well: %s", target.name, check.error)
        elif check.is_healthy and before is not None and not before.is_healthy:
            log.warning("'%s' is well again", target.name)
        return check

    def check_target(self, target: HealthTarget, max_age: float) -> ProbeResult:
        """The check of one target, not older than so many seconds."""
        known = self.get_last_result(target.name, target.upstream)
        if known is not None and time.time() - known.checked_at < max_age:
            return known
        found = probe_model_list(target.upstream, target.model)
        if target.probe is not None and found.is_healthy and found.is_model_known is None:
            found = self._probe_unlisted_model(target, found, known)
        return self.record_result(target, found)

    def _probe_unlisted_model(
        self, target: HealthTarget, found: ProbeResult, known: ProbeResult | None
    ) -> ProbeResult:
        """What was found, and of the model what a request tells; one that is known is not asked.

        One that was asked a short while ago is not asked either: what it said then still holds.
        """
        if known is not None and known.is_healthy and known.is_model_known:
            return found
        if not self._may_probe(target):
            return found if known is None or known.is_healthy else known
        told = target.probe() if target.probe is not None else found
        return found if told.fault == "request" else told

    def _may_probe(self, target: HealthTarget) -> bool:
        """Whether the interval is over; if so, the next one begins."""
        upstream, asked = self._probe_times.get(target.name, (None, 0.0))
        now = time.monotonic()
        if upstream is target.upstream and now - asked < self._probe_interval:
            return False
        self._probe_times[target.name] = target.upstream, now
        return True

    def check_all(self, max_age: float) -> dict[str, ProbeResult]:
        """The checks of all targets, of which none is older than so many seconds."""
        targets = list(self._targets())
        with ThreadPoolExecutor(max(1, min(_MAX_CONCURRENT_CHECKS, len(targets)))) as pool:
            found = pool.map(lambda target: self.check_target(target, max_age), targets)
            return {target.name: check for target, check in zip(targets, found, strict=True)}

    def start(self, interval: float) -> None:
        """Check from now on every ``interval`` seconds, as long as the process lives."""
        spawn(lambda: self._run_forever(interval))

    def _run_forever(self, interval: float) -> None:
        while True:
            try:
                self._forget_missing(self.check_all(0.0))
            except Exception:
                log.exception("the upstreams could not be checked")
            time.sleep(interval * _jitter.uniform(0.9, 1.1))  # workers need not ask together

    def _forget_missing(self, there: Iterable[str]) -> None:
        for name in set(self._results) - set(there):
            self._results.pop(name, None)
            self._probe_times.pop(name, None)
