"""Resilience before the first byte: concurrency limits, retries, circuit breakers and fallbacks.

These modules decide whether, when and to which upstream a request is sent again.  They know
handlers and contexts, but neither Flask nor the SDK.  Clocks and random numbers are injected, so
that tests do not wait.

They act only until the first batch of an answer arrives.  An answer that has begun is never
repeated, and later batches do not pass through this code.
"""

from __future__ import annotations

from forwarder.upstream.resilience.failover import Resilience
from forwarder.upstream.resilience.upstream_state import UpstreamState

__all__ = ["Resilience", "UpstreamState"]
