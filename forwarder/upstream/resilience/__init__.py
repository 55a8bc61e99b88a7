"""Resilience before the first byte: concurrency limits, retries, circuit breakers and fallbacks.

These modules decide whether, when and to which upstream a request is sent again. They know handlers
and contexts, but neither Flask nor the SDK. They act only until the first batch of an answer
arrives: an answer that has begun is never repeated, and later batches do not pass through this
code. Not here: the routes of a model (`models/router.py`), the affinity of a request
(`pipeline/affinity.py`), health checks (`models/upstream_health.py`), rate limits of clients
(`server/rate_limit.py`).

**State**: a process has one `Resilience` (`failover.py`) and, for each upstream or endpoint, one
`UpstreamState` (`upstream_state.py`), whose docstring says what endpoints share.

**A request**: `open_first_available` gets the routes of a request and a function that runs the
whole pipeline for one route. It chooses

1. a member of a group, or the first upstream and then its fallbacks in their order;
2. one of the upstream's endpoints. The endpoint that stores the objects of the request comes first,
   and is the only one if the request is pinned to it. Otherwise `balance.py` chooses, for members
   and endpoints alike, by the key of the conversation and the load.

Then `_open_endpoint` starts a new attempt in the context, and `UpstreamState.admit_request` checks
the concurrency limit and the breaker. At the inner end of the pipeline, `with_retries` calls the
upstream; uploads of media use `run_with_retries` directly. After a failure four functions answer
four questions:

    is_worth_retry      `retry_policy.py`   Is the same upstream called again after a pause?
    is_worth_fallback   `classify.py`       Is another endpoint, member or fallback called?
    classify_outcome    `classify.py`       Does it count for or against the breaker?
    Cooldowns.start     `cooldowns.py`      Is the endpoint left out for a while, for which models?

With several endpoints there is no retry of one endpoint: the next endpoint is called at once, and
the pauses are between rounds over all of them (`_open_route`). Only a later upstream request of an
answer that has begun, such as a round of hosted tools, is retried at its endpoint.

Rules:

- A retry waits at least as long as ``Retry-After`` says. The pauses of an upstream request together
  are limited (``RETRY_WAIT``): if ``Retry-After`` is longer, there is no retry. `retry_budget.py`
  limits the retries of all requests together.
- A time-out of the first byte is not retried: the upstream still works on the request, and a second
  one would be billed too. Other upstreams may be called.
- Once a fallback is called, every error leads to the next one, because the client did not request
  it. If all fail, the client gets the error of the first upstream. A group ends with the error of
  the last member, several endpoints with the error of the last one. If no member or endpoint could
  be called, or each endpoint now has an `Obstacle` and one of these ends by itself, the client gets
  the refusal of the one that can be called first. Observers get the failures that the client does
  not see.
- Cooldowns leave endpoints and members out of a choice. `admit_request` does not check them, so an
  upstream with one endpoint outside of groups is called in spite of a 429, and so is a pinned
  endpoint. Keys of clients start no cooldowns.
- A failure excludes all endpoints of the host from the rest of a round; a 429 or a refused key only
  its own endpoint. If nothing else is usable, the first call of a request may go to a refused
  account, because such a refusal may have concerned one model or one request.
- An outcome counts only in the breaker's state in which the call began (``term``). A 5xx or an
  invalid answer may be the fault of the request: it counts only if something else can be called,
  and once two clients had such failures. Half open, one trial request decides; if it ends without
  an outcome, the cleanup of its admission permits another.
- After a disconnect of the client nothing is retried, and the failure does not count.
- Limits, budgets, breakers and cooldowns have locks. A breaker calls ``on_change`` inside its lock,
  so observers must not block. Clocks and random numbers are injected, so that tests do not wait.
- If FORWARDER_RATE_LIMIT_STORAGE is a Redis, `shared_state.py` exchanges open breakers and
  cooldowns with other processes in the background. Requests never wait for it. Names of entries
  contain digests instead of keys, and the log names only the class of an error of Redis.
- Logs get `describe_failure` and metrics `get_failure_label`: messages may quote the request.

To add an error of upstreams: a subclass of UpstreamError in `core/errors.py` (`core` has the other
steps), the answers to the questions above, and a row in the table of
`tests/upstream/resilience/test_classify.py`, which fails for a class without a row. To add a reason
for which an endpoint is left out: an `Obstacle` from `UpstreamState.find_obstacle`, which both
choices ask.
"""

from __future__ import annotations

from forwarder.upstream.resilience.failover import Resilience
from forwarder.upstream.resilience.upstream_state import UpstreamState

__all__ = ["Resilience", "UpstreamState"]
