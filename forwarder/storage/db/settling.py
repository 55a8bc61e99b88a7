"""Whether a lease that has run out says anything about its worker.

After an outage of the database all leases have run out, and workers that live are about to renew
them or to store what they have finished.  Work is taken up or declared lost only when the database
has taken writes for a while.  Reads prove nothing: a full disk can be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.clock import LEASE_SECONDS

SETTLE_SECONDS = 8.0
"""Seconds for which the database must take writes: a worker that tries to connect again waits up
to 5 seconds for the network, pauses for 1.2 before its next trial, and then writes within 2."""

PROBE_SECONDS = 1.0
"""Seconds between two probes."""

MAX_PROBE_GAP_SECONDS = LEASE_SECONDS / 2
"""Seconds between two probes in which an outage that ends leases cannot hide."""


class StabilityMonitor:
    """Watches whether a database takes writes, for as long as somebody asks.

    ``probe`` writes as much as a trial does; raises StoreUnavailable.
    """

    def __init__(self, probe: Callable[[], object]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._stable_since: float | None = None
        self._probed_at = float("-inf")

    def has_settled(self) -> bool:
        """Has the database taken writes for long enough?  Probes it, unless that was done lately.

        To be asked again and again: the first answer after a pause is False.
        """
        if self._lock.acquire(blocking=False):  # the others do not wait for the probe
            try:
                self._probe_if_due()
            finally:
                self._lock.release()
        since = self._stable_since
        return since is not None and time.monotonic() - since >= SETTLE_SECONDS

    def restart(self) -> None:
        """Note that a write has failed."""
        self._stable_since = None

    def _probe_if_due(self) -> None:
        began = time.monotonic()
        pause = began - self._probed_at
        if pause < PROBE_SECONDS:
            return
        try:
            self._probe()
        except StoreUnavailable:
            self._stable_since = None
            return
        finally:
            self._probed_at = now = time.monotonic()
        if (
            self._stable_since is None
            or pause > MAX_PROBE_GAP_SECONDS
            or now - began > SETTLE_SECONDS
        ):
            self._stable_since = now
