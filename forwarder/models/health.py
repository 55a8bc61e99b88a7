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

from forwarder.context.request_context import Observer
from forwarder.core.concurrency import spawn
from forwarder.models.probe import Check, listed
from forwarder.upstream.client import Upstream

_jitter = random.Random()
"""Its own generator: a thread that goes on must not disturb a program that seeds the shared one."""

log = logging.getLogger("forwarder.health")

_AT_ONCE = 16


class Target(NamedTuple):
    """What is checked: an upstream, and the model of it that matters, if one does.

    ``ask`` finds out by a small request whether that is known, where no list tells.
    """

    name: str
    upstream: Upstream
    model: str | None
    ask: Callable[[], Check] | None = None


class Health:
    """The last checks; ``targets`` gives what there is to be checked now.

    A model is asked by a request, which costs tokens, once in ``ask_interval`` seconds at most.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[Target]],
        observer: Observer,
        ask_interval: float = 0.0,
    ) -> None:
        self._targets = targets
        self._observer = observer
        self._ask_interval = ask_interval
        self._known: dict[str, tuple[Upstream, Check]] = {}
        self._asked: dict[str, tuple[Upstream, float]] = {}

    def known(self, name: str, upstream: Upstream) -> Check | None:
        """The last check of an upstream; None of one that was registered anew since."""
        checked, check = self._known.get(name, (None, None))
        return check if checked is upstream else None

    def note(self, target: Target, check: Check) -> Check:
        """Remember a check; what was not told this time stays as it was."""
        before = self.known(target.name, target.upstream)
        if check.is_well and check.model is None and before and before.is_well:
            check = replace(check, model=before.model)
        self._known[target.name] = target.upstream, check
        self._observer.checked(target.name, check.is_well, check.latency)
        if not check.is_well and (before is None or before.is_well):
            log.warning("'%s' is not well: %s", target.name, check.error)
        elif check.is_well and before is not None and not before.is_well:
            log.warning("'%s' is well again", target.name)
        return check

    def fresh(self, target: Target, max_age: float) -> Check:
        """The check of one target, not older than so many seconds."""
        known = self.known(target.name, target.upstream)
        if known is not None and time.time() - known.at < max_age:
            return known
        found = listed(target.upstream, target.model)
        if target.ask is not None and found.is_well and found.model is None:
            found = self._told(target, found, known)
        return self.note(target, found)

    def _told(self, target: Target, found: Check, known: Check | None) -> Check:
        """What was found, and of the model what a request tells; one that is known is not asked.

        One that was asked a short while ago is not asked either: what it said then still holds.
        """
        if known is not None and known.is_well and known.model:
            return found
        if not self._may_ask(target):
            return found if known is None or known.is_well else known
        told = target.ask() if target.ask is not None else found
        return found if told.wrong == "request" else told

    def _may_ask(self, target: Target) -> bool:
        """Whether the interval is over; if so, the next one begins."""
        upstream, asked = self._asked.get(target.name, (None, 0.0))
        now = time.monotonic()
        if upstream is target.upstream and now - asked < self._ask_interval:
            return False
        self._asked[target.name] = target.upstream, now
        return True

    def checked(self, max_age: float) -> dict[str, Check]:
        """The checks of all targets, of which none is older than so many seconds."""
        targets = list(self._targets())
        with ThreadPoolExecutor(max(1, min(_AT_ONCE, len(targets)))) as pool:
            found = pool.map(lambda target: self.fresh(target, max_age), targets)
            return {target.name: check for target, check in zip(targets, found, strict=True)}

    def start(self, interval: float) -> None:
        """Check from now on every ``interval`` seconds, as long as the process lives."""
        spawn(lambda: self._run(interval))

    def _run(self, interval: float) -> None:
        while True:
            try:
                self._forget_others(self.checked(0.0))
            except Exception:
                log.exception("the upstreams could not be checked")
            time.sleep(interval * _jitter.uniform(0.9, 1.1))  # workers need not ask together

    def _forget_others(self, there: Iterable[str]) -> None:
        for name in set(self._known) - set(there):
            self._known.pop(name, None)
            self._asked.pop(name, None)
