"""Resilience before the first byte: concurrency limits, retries, circuit breakers and fallbacks.

These modules decide whether, when and to which upstream a request is sent again.  They know
handlers and contexts, but neither Flask nor the SDK.  Clocks and random numbers are injected, so
that tests do not wait.

They act only until the first batch of an answer arrives.  An answer that has begun is never
repeated, and later batches do not pass through this code.

- `failover.py`: `Resilience` tries endpoints, members of groups and fallbacks one after the other;
  `balance.py` chooses among those that are equal.
- `upstream_state.py`: the state of one upstream or endpoint, which runs the retries.
- `retry_policy.py`: which failures are retried, how often, after which pause; `retry_budget.py`
  limits the retries of all requests together.
- `classify.py`: which failures lead to a fallback, and which count against the upstream.
- `breaker.py`, `cooldowns.py`, `concurrency_limit.py`: when an upstream or endpoint is not called.
- `shared_state.py`: open breakers and cooldowns that all workers share.
"""

from __future__ import annotations

from forwarder.upstream.resilience.failover import Resilience
from forwarder.upstream.resilience.upstream_state import UpstreamState

__all__ = ["Resilience", "UpstreamState"]
