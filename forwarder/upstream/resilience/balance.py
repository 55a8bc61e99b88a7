"""Balancing: which of several endpoints, or members of a group, gets a request.

A request that belongs to a conversation goes where the conversation went before, so that the
upstream's prompt cache knows its beginning (rendezvous hashing, weighted). All other requests, and
conversations of an endpoint that is much busier than another, go to the least busy one.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

MUCH_BUSIER_FACTOR = 2.0
MUCH_BUSIER_REQUESTS = 4.0
"""A candidate is much busier than the least busy one if it serves more requests than it would at
`MUCH_BUSIER_FACTOR` times the load of that one, plus `MUCH_BUSIER_REQUESTS`."""


class Affinity(NamedTuple):
    """Where a request belongs.

    ``sticky_key`` is the same for all requests that share a beginning. ``origin`` is the endpoint
    that stores the objects of the request; with ``is_pinned`` no other endpoint can serve it.
    """

    sticky_key: str | None = None
    origin: str | None = None
    is_pinned: bool = False


ANYWHERE = Affinity()


class Candidate(NamedTuple, Generic[T]):
    """An endpoint or a member of a group.

    ``name`` is stable, so that conversations return to the candidate. Members of a group at one
    upstream share their requests ``in_flight``; their ``capacity`` is the sum of their weights. The
    capacity of an endpoint is its weight.
    """

    name: str
    weight: float
    in_flight: int
    capacity: float
    value: T

    @property
    def load(self) -> float:
        """Requests in flight per unit of capacity."""
        return self.in_flight / self.capacity


def choose_candidate(
    candidates: Sequence[Candidate[T]],
    sticky_key: str | None,
    chance: Callable[[], float] = random.random,
) -> Candidate[T]:
    """Return the candidate for a request; there must be at least one."""
    if len(candidates) == 1:
        return candidates[0]
    least_load = min(each.load for each in candidates)
    if sticky_key is not None:
        return max(
            (each for each in candidates if not is_much_busier(each, least_load)),
            key=lambda each: compute_score(sticky_key, each),
        )
    return choose_by_weight([each for each in candidates if each.load == least_load], chance)


def is_much_busier(candidate: Candidate[T], least_load: float) -> bool:
    """Return whether a candidate is too busy for its conversations.

    The limit is in requests, so that weights of 2 and 1 mean the same as 100 and 50.
    """
    limit = MUCH_BUSIER_FACTOR * least_load * candidate.capacity + MUCH_BUSIER_REQUESTS
    return candidate.in_flight > limit


def choose_by_weight(
    candidates: Sequence[Candidate[T]], chance: Callable[[], float]
) -> Candidate[T]:
    """Return a random candidate; its weight is its share of the requests."""
    point = chance() * sum(each.weight for each in candidates)
    for each in candidates:
        point -= each.weight
        if point < 0:
            return each
    return candidates[-1]


def compute_score(sticky_key: str, candidate: Candidate[T]) -> float:
    """Return the score of weighted rendezvous hashing: the highest one gets the key.

    If a candidate is added or removed, only its own keys move.
    """
    digest = hashlib.blake2b(f"{candidate.name} {sticky_key}".encode(), digest_size=8).digest()
    share = (int.from_bytes(digest) + 0.5) / 2.0**64
    return -candidate.weight / math.log(share)
