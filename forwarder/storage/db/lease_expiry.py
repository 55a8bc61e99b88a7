"""Decide whether expired leases prove that their workers have died.

After a database outage all leases have expired, while running workers are about to renew them or to
store finished responses. Jobs are taken over or failed only after the database has accepted writes
for a while. Reads prove nothing, because a full disk can be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.clock import LEASE_SECONDS

MIN_STABLE_SECONDS = 8.0
"""Seconds for which the database must accept writes. A reconnecting worker waits up to 5 seconds
for the network, pauses up to 1.2 seconds before its next trial, and then writes within 2 seconds.
"""

PROBE_SECONDS = 1.0
"""Interval between probes."""

MAX_PROBE_GAP_SECONDS = LEASE_SECONDS / 2
"""If two probes are further apart, an outage long enough to expire leases may have gone
unnoticed."""


class StabilityMonitor:
    """Tracks whether a database accepts writes, as long as `is_stable` is called regularly.

    ``probe`` makes a test write, as large as those of the database's breaker; it raises
    StoreUnavailable.
    """

    def __init__(self, probe: Callable[[], object]) -> None:
        self._probe = probe
        self._lock = threading.Lock()
        self._stable_since: float | None = None
        self._probed_at = float("-inf")

    def is_stable(self) -> bool:
        """Whether the database has accepted writes for long enough. Probes it if a probe is due.

        If it was not called for a while, the next result is False, so callers must poll.
        """
        if self._lock.acquire(blocking=False):  # concurrent callers do not wait for the probe
            try:
                self._probe_if_due()
            finally:
                self._lock.release()
        since = self._stable_since
        return since is not None and time.monotonic() - since >= MIN_STABLE_SECONDS

    def restart(self) -> None:
        """Start over after a failed write."""
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
            or now - began > MIN_STABLE_SECONDS
        ):
            self._stable_since = now
