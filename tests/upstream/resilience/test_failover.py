"""Fallback when the first upstream fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import (
    ForwarderError,
    InvalidRequest,
    Overloaded,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from forwarder.core.types import EventStream
from forwarder.upstream.resilience import Resilience
from forwarder.upstream.resilience.breaker import CLOSED, OPEN
from tests.helpers.check_cases import check_each
from tests.upstream.resilience.helpers import Witness, make_patient_context, make_settings

NAMES = ("a", "b", "c")
BUSY = UpstreamRefused(503, {"message": "busy"})
WRONG = UpstreamRefused(400, {"message": "wrong"})


class World:
    """Three upstreams of which some fail."""

    def __init__(
        self, failures: Mapping[str, ForwarderError] | None = None, **environment: str
    ) -> None:
        self.failures = failures or {}
        self.witness = Witness()
        made = make_settings(",".join(NAMES), **environment)
        self.resilience = Resilience(made, self.witness)
        self.routes = [Route(up, "chat", f"model-{up.name}") for up in made.upstreams]
        self.asked: list[str] = []
        self.context: RequestContext = make_patient_context()

    def open(self, route: Route) -> EventStream:
        name = route.upstream.name
        self.asked.append(name)
        self.context.loss_report.drop(f"lost-{name}", "why")
        self.context.reply_headers = {"from": name}
        if name in self.failures:
            raise self.failures[name]
        return iter([[{"from": name}]])

    def ask(self) -> list[Any]:
        return list(self.resilience.open_first_available(self.routes, self.open, self.context))

    def fail(self) -> ForwarderError:
        with pytest.raises(ForwarderError) as raised:
            self.ask()
        return raised.value

    @property
    def slots_in_use(self) -> list[int]:
        return [
            standing.concurrency_limit.in_use
            for standing in self.resilience.upstream_states.values()
        ]


def test_fallback_is_not_used_if_the_first_upstream_answers() -> None:
    world = World()

    assert world.ask() == [[{"from": "a"}]]
    assert world.asked == ["a"]
    assert (world.context.upstream, world.context.model) == ("a", "model-a")
    assert world.witness.heard == []


@check_each("error", [BUSY, UpstreamUnreachable("gone"), UpstreamKeyRefused("wrong key")])
def test_fallback_tries_the_next_upstream_after_a_failure(error: ForwarderError) -> None:
    world = World({"a": error, "b": error})

    assert world.ask() == [[{"from": "c"}]]
    assert world.asked == ["a", "b", "c"]
    assert world.context.upstream == "c"
    assert world.context.failed_upstreams == ["a", "b"]
    assert [heard[:3] for heard in world.witness.heard] == [
        ("fell_back", "a", "b"),
        ("fell_back", "b", "c"),
    ]


def test_fallback_reports_each_hidden_failure_once() -> None:
    gone = UpstreamUnreachable("gone")
    saved, lost = World({"a": BUSY, "b": gone}), World({"a": BUSY, "b": WRONG, "c": gone})

    saved.ask()
    lost.fail()

    assert saved.witness.failures == [("a", BUSY), ("b", gone)]
    assert lost.witness.failures == [("b", WRONG), ("c", gone)]


def test_fallback_discards_losses_and_headers_of_failed_upstreams() -> None:
    world = World({"a": BUSY})

    world.ask()

    assert world.context.loss_report.losses == {"lost-b": "why"}
    assert world.context.reply_headers == {"from": "b"}


def test_fallback_keeps_strict_mode() -> None:
    world = World({"a": BUSY})
    world.context.loss_report.strict = True
    world.open = lambda route: iter([[{"strict": world.context.loss_report.strict}]])  # type: ignore[method-assign]

    assert world.ask() == [[{"strict": True}]]


def test_fallback_is_not_used_for_an_invalid_request() -> None:
    world = World({"a": WRONG})

    assert world.fail() is WRONG
    assert world.asked == ["a"]


def test_fallback_skips_upstreams_that_cannot_carry_the_request() -> None:
    world = World({"a": BUSY, "b": InvalidRequest("cannot be carried")})

    assert world.ask() == [[{"from": "c"}]]


def test_fallback_raises_the_first_error_if_all_fail() -> None:
    world = World({"a": BUSY, "b": WRONG, "c": UpstreamUnreachable("gone")})

    assert world.fail() is BUSY
    assert world.asked == ["a", "b", "c"]
    assert (world.context.upstream, world.context.model) == ("a", "model-a")
    assert world.context.loss_report.losses == {"lost-a": "why"}
    assert world.context.reply_headers == {"from": "a"}


def test_fallback_skips_upstreams_with_an_open_breaker() -> None:
    world = World({"a": UpstreamUnreachable("gone")}, A_BREAKER_FAILURES="1")
    standing = world.resilience.upstream_states["a"]
    with pytest.raises(UpstreamUnreachable):
        standing.run_with_retries(lambda: world.open(world.routes[0]), world.context)
    world.asked.clear()

    assert world.ask() == [[{"from": "b"}]]
    assert world.asked == ["b"]

    world.routes = world.routes[:1]
    assert isinstance(world.fail(), UpstreamUnavailable)
    assert world.asked == ["b"]


@check_each(
    ("environment", "clients", "state"),
    [
        ({"FORWARDER_API_KEYS": "k,l"}, [("k", "192.0.2.1"), ("k", "192.0.2.2")], CLOSED),
        ({"FORWARDER_API_KEYS": "k,l"}, [("k", "192.0.2.1"), ("l", "192.0.2.1")], OPEN),
        ({}, [("made-up", "192.0.2.1"), ("other", "192.0.2.1")], CLOSED),
        ({}, [(None, "192.0.2.1"), (None, "192.0.2.2")], OPEN),
        ({}, [(None, "2001:db8::1"), (None, "2001:db8::2")], CLOSED),
    ],
)
def test_breaker_distinguishes_clients_by_checked_key_or_address(
    environment: dict[str, str], clients: list[tuple[str | None, str]], state: str
) -> None:
    world = World(A_BREAKER_FAILURES="2", A_FALLBACK="b", **environment)
    standing = world.resilience.upstream_states["a"]
    for key, address in clients:
        world.context.client_key, world.context.client_address = key, address
        with pytest.raises(UpstreamRefused):
            standing.run_with_retries(_busy, world.context)

    assert standing.breaker.state == state


def _busy() -> EventStream:
    raise BUSY


def test_fallback_skips_upstreams_at_their_concurrency_limit() -> None:
    world = World(A_MAX_CONCURRENT="1")
    world.resilience.upstream_states["a"].concurrency_limit.acquire()

    assert world.ask() == [[{"from": "b"}]]
    assert world.asked == ["b"]


def test_fallback_stops_after_a_client_disconnect() -> None:
    world = World({"a": BUSY})
    world.context.cancel()

    assert world.fail() is BUSY
    assert world.asked == ["a"]


# -- slots ----------------------------------------------------------------------------------------


def test_answering_upstream_holds_its_slot_until_the_request_ends() -> None:
    world = World({"a": BUSY})

    world.ask()

    assert world.slots_in_use == [0, 1, 0]
    world.context.close()
    assert world.slots_in_use == [0, 0, 0]


def test_slot_is_released_after_a_failure() -> None:
    world = World(dict.fromkeys(NAMES, BUSY))

    world.fail()

    assert world.slots_in_use == [0, 0, 0]


def test_slot_is_released_after_an_internal_error() -> None:
    world = World()

    def raise_key_error(route: Route) -> EventStream:
        raise KeyError(route.model)

    with pytest.raises(KeyError):
        world.resilience.open_first_available(world.routes, raise_key_error, world.context)

    assert world.slots_in_use == [0, 0, 0]


def test_disconnect_and_end_release_a_slot_once() -> None:
    world = World()
    other = make_patient_context()
    world.resilience.admit_request(world.context)
    world.resilience.admit_request(other)
    world.ask()

    world.context.cancel()
    world.context.close()

    assert world.slots_in_use == [0, 0, 0]
    assert world.resilience.concurrency_limit.in_use == 1


def test_worker_refuses_requests_above_its_concurrency_limit() -> None:
    world = World(FORWARDER_MAX_CONCURRENT="1")
    world.resilience.admit_request(world.context)

    with pytest.raises(Overloaded) as refused:
        world.resilience.admit_request(make_patient_context())

    assert refused.value.headers == {"retry-after": "1"}
    assert world.witness.heard == [("refused", "overloaded", None)]
    world.context.close()
    world.resilience.admit_request(make_patient_context())


def test_describe_states_has_every_upstream() -> None:
    world = World({"a": BUSY})
    world.ask()

    states = world.resilience.describe_states()

    assert states["a"] == {"breaker": "closed", "concurrent": 0, "fallbacks": 1}
    assert states["b"] == {"breaker": "closed", "concurrent": 1}
