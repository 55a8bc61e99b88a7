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
from tests.upstream.resilience.helpers import RecordingObserver, make_patient_context, make_settings

NAMES = ("a", "b", "c")
BUSY = UpstreamRefused(503, {"message": "busy"})
WRONG = UpstreamRefused(400, {"message": "wrong"})


class FallbackSetup:
    """Three upstreams of which some fail."""

    def __init__(
        self, failures: Mapping[str, ForwarderError] | None = None, **environment: str
    ) -> None:
        self.failures = failures or {}
        self.observer = RecordingObserver()
        settings = make_settings(",".join(NAMES), **environment)
        self.resilience = Resilience(settings, self.observer)
        self.routes = [Route(up, "chat", f"model-{up.name}") for up in settings.upstreams]
        self.calls: list[str] = []
        self.context: RequestContext = make_patient_context()

    def open(self, route: Route) -> EventStream:
        name = route.upstream.name
        self.calls.append(name)
        self.context.loss_report.drop(f"lost-{name}", "why")
        self.context.reply_headers = {"from": name}
        if name in self.failures:
            raise self.failures[name]
        return iter([[{"from": name}]])

    def send(self) -> list[Any]:
        return list(self.resilience.open_first_available(self.routes, self.open, self.context))

    def fail(self) -> ForwarderError:
        with pytest.raises(ForwarderError) as raised:
            self.send()
        return raised.value

    @property
    def slots_in_use(self) -> list[int]:
        return [
            state.concurrency_limit.in_use for state in self.resilience.upstream_states.values()
        ]


def test_fallback_is_not_used_if_the_first_upstream_answers() -> None:
    setup = FallbackSetup()

    assert setup.send() == [[{"from": "a"}]]
    assert setup.calls == ["a"]
    assert (setup.context.upstream, setup.context.model) == ("a", "model-a")
    assert setup.observer.notifications == []


@check_each("error", [BUSY, UpstreamUnreachable("gone"), UpstreamKeyRefused("wrong key")])
def test_fallback_tries_the_next_upstream_after_a_failure(error: ForwarderError) -> None:
    setup = FallbackSetup({"a": error, "b": error})

    assert setup.send() == [[{"from": "c"}]]
    assert setup.calls == ["a", "b", "c"]
    assert setup.context.upstream == "c"
    assert setup.context.failed_upstreams == ["a", "b"]
    assert [notification[:3] for notification in setup.observer.notifications] == [
        ("fell_back", "a", "b"),
        ("fell_back", "b", "c"),
    ]


def test_fallback_reports_each_hidden_failure_once() -> None:
    unreachable = UpstreamUnreachable("gone")
    recovered, failed = (
        FallbackSetup({"a": BUSY, "b": unreachable}),
        FallbackSetup({"a": BUSY, "b": WRONG, "c": unreachable}),
    )

    recovered.send()
    failed.fail()

    assert recovered.observer.failures == [("a", BUSY), ("b", unreachable)]
    assert failed.observer.failures == [("b", WRONG), ("c", unreachable)]


def test_fallback_discards_losses_and_headers_of_failed_upstreams() -> None:
    setup = FallbackSetup({"a": BUSY})

    setup.send()

    assert setup.context.loss_report.losses == {"lost-b": "why"}
    assert setup.context.reply_headers == {"from": "b"}


def test_fallback_keeps_strict_mode() -> None:
    setup = FallbackSetup({"a": BUSY})
    setup.context.loss_report.strict = True
    setup.open = lambda route: iter([[{"strict": setup.context.loss_report.strict}]])  # type: ignore[method-assign]

    assert setup.send() == [[{"strict": True}]]


def test_fallback_is_not_used_for_an_invalid_request() -> None:
    setup = FallbackSetup({"a": WRONG})

    assert setup.fail() is WRONG
    assert setup.calls == ["a"]


def test_fallback_skips_upstreams_that_cannot_carry_the_request() -> None:
    setup = FallbackSetup({"a": BUSY, "b": InvalidRequest("cannot be carried")})

    assert setup.send() == [[{"from": "c"}]]


def test_fallback_raises_the_first_error_if_all_fail() -> None:
    setup = FallbackSetup({"a": BUSY, "b": WRONG, "c": UpstreamUnreachable("gone")})

    assert setup.fail() is BUSY
    assert setup.calls == ["a", "b", "c"]
    assert (setup.context.upstream, setup.context.model) == ("a", "model-a")
    assert setup.context.loss_report.losses == {"lost-a": "why"}
    assert setup.context.reply_headers == {"from": "a"}


def test_fallback_skips_upstreams_with_an_open_breaker() -> None:
    setup = FallbackSetup({"a": UpstreamUnreachable("gone")}, A_BREAKER_FAILURES="1")
    upstream_state = setup.resilience.upstream_states["a"]
    with pytest.raises(UpstreamUnreachable):
        upstream_state.run_with_retries(lambda: setup.open(setup.routes[0]), setup.context)
    setup.calls.clear()

    assert setup.send() == [[{"from": "b"}]]
    assert setup.calls == ["b"]

    setup.routes = setup.routes[:1]
    assert isinstance(setup.fail(), UpstreamUnavailable)
    assert setup.calls == ["b"]


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
    setup = FallbackSetup(A_BREAKER_FAILURES="2", A_FALLBACK="b", **environment)
    upstream_state = setup.resilience.upstream_states["a"]
    for key, address in clients:
        setup.context.client_key, setup.context.client_address = key, address
        with pytest.raises(UpstreamRefused):
            upstream_state.run_with_retries(_busy, setup.context)

    assert upstream_state.breaker.state == state


def _busy() -> EventStream:
    raise BUSY


def test_fallback_skips_upstreams_at_their_concurrency_limit() -> None:
    setup = FallbackSetup(A_MAX_CONCURRENT="1")
    setup.resilience.upstream_states["a"].concurrency_limit.acquire()

    assert setup.send() == [[{"from": "b"}]]
    assert setup.calls == ["b"]


def test_fallback_stops_after_a_client_disconnect() -> None:
    setup = FallbackSetup({"a": BUSY})
    setup.context.cancel()

    assert setup.fail() is BUSY
    assert setup.calls == ["a"]


# -- slots ----------------------------------------------------------------------------------------


def test_answering_upstream_holds_its_slot_until_the_request_ends() -> None:
    setup = FallbackSetup({"a": BUSY})

    setup.send()

    assert setup.slots_in_use == [0, 1, 0]
    setup.context.close()
    assert setup.slots_in_use == [0, 0, 0]


def test_slot_is_released_after_a_failure() -> None:
    setup = FallbackSetup(dict.fromkeys(NAMES, BUSY))

    setup.fail()

    assert setup.slots_in_use == [0, 0, 0]


def test_slot_is_released_after_an_internal_error() -> None:
    setup = FallbackSetup()

    def raise_key_error(route: Route) -> EventStream:
        raise KeyError(route.model)

    with pytest.raises(KeyError):
        setup.resilience.open_first_available(setup.routes, raise_key_error, setup.context)

    assert setup.slots_in_use == [0, 0, 0]


def test_disconnect_and_end_release_a_slot_once() -> None:
    setup = FallbackSetup()
    other = make_patient_context()
    setup.resilience.admit_request(setup.context)
    setup.resilience.admit_request(other)
    setup.send()

    setup.context.cancel()
    setup.context.close()

    assert setup.slots_in_use == [0, 0, 0]
    assert setup.resilience.concurrency_limit.in_use == 1


def test_worker_refuses_requests_above_its_concurrency_limit() -> None:
    setup = FallbackSetup(FORWARDER_MAX_CONCURRENT="1")
    setup.resilience.admit_request(setup.context)

    with pytest.raises(Overloaded) as refused:
        setup.resilience.admit_request(make_patient_context())

    assert refused.value.headers == {"retry-after": "1"}
    assert setup.observer.notifications == [("refused", "overloaded", None)]
    setup.context.close()
    setup.resilience.admit_request(make_patient_context())


def test_describe_states_has_every_upstream() -> None:
    setup = FallbackSetup({"a": BUSY})
    setup.send()

    states = setup.resilience.describe_states()

    assert states["a"] == {"breaker": "closed", "concurrent": 0, "fallbacks": 1}
    assert states["b"] == {"breaker": "closed", "concurrent": 1}
