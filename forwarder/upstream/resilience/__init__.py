"""Steadiness before the first byte: limits, retries, breakers, and upstreams to fall back to.

What belongs here decides, from a failure and from what went before, whether and when something is
asked again, and of whom.  It knows calls and exchanges, and neither Flask nor the SDK; time and
chance are handed in, so that tests need no patience.

Once a batch of an answer has come nothing here touches it any more: an answer that has begun is
never repeated, and each batch after the first costs nothing.
"""

from __future__ import annotations

from forwarder.upstream.resilience.fallback import Resilience
from forwarder.upstream.resilience.upstream_state import UpstreamState

__all__ = ["Resilience", "UpstreamState"]
