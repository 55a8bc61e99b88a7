"""Balancing between endpoints of an upstream, and between members of a group."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from forwarder.context.request_context import Route
from forwarder.core.cleanup import CleanupStack
from forwarder.core.errors import (
    ForwarderError,
    Overloaded,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from forwarder.core.types import EventStream
from forwarder.models.router import Router
from forwarder.upstream.resilience import Resilience
from forwarder.upstream.resilience.balance import (
    ANYWHERE,
    Affinity,
    Candidate,
    choose_candidate,
)
from forwarder.upstream.resilience.retry_budget import MAX_SAVED_RETRIES, RETRIES_PER_REQUEST
from tests.helpers.check_cases import check_each
from tests.upstream.resilience.helpers import (
    PatientContext,
    RecordingObserver,
    make_patient_context,
    make_settings,
)

BUSY = UpstreamRefused(503, {"message": "busy"})
UNREACHABLE = UpstreamUnreachable("gone")


def make_rate_limit_error(seconds: int = 10) -> UpstreamRefused:
    return UpstreamRefused(
        429, {"message": f"wait {seconds}", "code": "rate_limit_exceeded"},
        {"retry-after": str(seconds)},
    )  # fmt: skip


# -- the choice -----------------------------------------------------------------------------------


def make_candidates(**loads: tuple[float, int]) -> list[Candidate[str]]:
    return [Candidate(name, weight, busy, weight, name) for name, (weight, busy) in loads.items()]


def test_least_busy_candidate_by_weight_is_chosen() -> None:
    found = choose_candidate(make_candidates(a=(1, 2), b=(3, 5), c=(1, 4)), None)

    assert found.value == "b"


def test_equally_busy_candidates_share_by_weight() -> None:
    random_numbers = iter(number / 100 for number in range(100))
    both = make_candidates(a=(3, 3), b=(1, 1))

    shares = Counter(
        choose_candidate(both, None, lambda: next(random_numbers)).value for _ in range(100)
    )

    assert shares == {"a": 75, "b": 25}


def test_sticky_key_finds_its_candidate_again_in_any_order() -> None:
    all_three = make_candidates(a=(1, 0), b=(1, 1), c=(1, 2))
    for number in range(20):
        chosen = {
            choose_candidate(order, f"conversation {number}").value
            for order in (all_three, all_three[::-1])
        }
        assert len(chosen) == 1


def test_sticky_keys_are_shared_by_weight() -> None:
    both = make_candidates(a=(3, 0), b=(1, 0))

    shares = Counter(choose_candidate(both, str(number)).value for number in range(2000))

    assert 0.70 < shares["a"] / 2000 < 0.80


def test_only_keys_of_a_removed_candidate_move() -> None:
    before = make_candidates(a=(1, 0), b=(1, 0), c=(1, 0))
    for number in range(200):
        chosen = choose_candidate(before, str(number)).value
        moved = choose_candidate(before[:2], str(number)).value
        assert moved == chosen or chosen == "c"


@check_each(("in_flight", "is_sticky"), [(4, True), (5, False)])
def test_sticky_candidate_is_not_used_if_it_is_much_busier(in_flight: int, is_sticky: bool) -> None:
    sticky = choose_candidate(make_candidates(a=(1, 0), b=(1, 0)), "key").value
    loads = {name: (1.0, in_flight if name == sticky else 0) for name in "ab"}

    assert (choose_candidate(make_candidates(**loads), "key").value == sticky) is is_sticky


@check_each("unit", [0.1, 1.0, 50.0])
def test_unit_of_the_weights_makes_no_difference(unit: float) -> None:
    sticky = choose_candidate(make_candidates(a=(unit, 0), b=(unit, 0)), "key").value

    def is_kept(in_flight: int) -> bool:
        loads = {name: (unit, in_flight if name == sticky else 1) for name in "ab"}
        return choose_candidate(make_candidates(**loads), "key").value == sticky

    assert [number for number in range(20) if is_kept(number)] == list(range(7))


# -- endpoints ------------------------------------------------------------------------------------


class EndpointSetup:
    """An upstream with two hosts and two keys each, and one with a single endpoint; some fail."""

    def __init__(self, **environment: str) -> None:
        self.failures: dict[str, ForwarderError] = {}
        self.observer = RecordingObserver()
        self.settings = make_settings(
            "up,other",
            **{
                "UP_BASE_URL": "http://a.test/v1,http://b.test/v1",
                "UP_API_KEY": "k1,k2",
                **environment,
            },
        )
        self.resilience = Resilience(self.settings, self.observer)
        self.calls: list[str] = []
        self.cleanups: list[CleanupStack] = []

    def name(self, route: Route) -> str:
        endpoint = route.upstream.endpoint
        return route.upstream.name if endpoint is None else endpoint.label

    def send(
        self,
        affinity: Affinity = ANYWHERE,
        model: str = "up/m",
        context: PatientContext | None = None,
    ) -> str:
        """Return the endpoint that answered. Each call runs through its upstream state, as in a handler."""
        used_context = context or make_patient_context()
        routes = Router(self.settings).list_routes(model, "chat")

        def call(route: Route) -> EventStream:
            name = self.name(route)

            def handle_request(request: dict[str, Any]) -> EventStream:
                self.calls.append(name)
                if name in self.failures:
                    raise self.failures[name]
                return iter([[{"from": name}]])

            state = self.resilience.upstream_states.get_or_create(route.upstream)
            return state.with_retries(handle_request, used_context)({})

        stream = self.resilience.open_first_available(routes, call, used_context, affinity)
        self.cleanups.append(used_context.cleanup)
        return str(next(iter(stream))[0]["from"])

    def fail(self, *arguments: Any, **options: Any) -> ForwarderError:
        with pytest.raises(ForwarderError) as raised:
            self.send(*arguments, **options)
        return raised.value

    def origin(self, label: str) -> str:
        return next(
            each.origin
            for each in self.settings.upstreams[0].endpoints
            if each.endpoint is not None and each.endpoint.label == label
        )

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = self.resilience.describe_states()["up"]
        return described

    def end(self) -> None:
        for cleanup in self.cleanups:
            cleanup.close()


def test_requests_in_flight_are_spread_over_all_endpoints() -> None:
    setup = EndpointSetup()

    endpoints = [setup.send() for _ in range(8)]

    assert Counter(endpoints) == {"1.1": 2, "1.2": 2, "2.1": 2, "2.2": 2}
    assert setup.describe()["concurrent"] == 8
    setup.end()
    assert setup.describe()["concurrent"] == 0
    assert [each["concurrent"] for each in setup.describe()["endpoints"]] == [0, 0, 0, 0]


def test_weights_of_hosts_decide_their_shares() -> None:
    setup = EndpointSetup(UP_API_KEY="k1", UP_WEIGHTS="3,1")

    endpoints = Counter(setup.send() for _ in range(40))

    assert endpoints == {"1.1": 30, "2.1": 10}


def test_conversation_keeps_its_endpoint() -> None:
    setup = EndpointSetup()
    for number in range(10):
        affinity = Affinity(sticky_key=f"conversation {number}")
        assert len({setup.send(affinity) for _ in range(3)}) == 1
        setup.end()


def test_refused_request_is_sent_with_the_next_key_and_the_key_cools_down() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures["1.1"] = make_rate_limit_error(60)
    affinity = Affinity(origin=setup.origin("1.1"))
    context = make_patient_context()

    assert setup.send(affinity, context=context) == "1.2"
    assert setup.calls == ["1.1", "1.2"]
    assert context.failed_endpoints == ["1.1"]
    assert context.endpoint is not None
    assert context.endpoint.label == "1.2"
    assert context.pauses == []
    assert {setup.send(affinity) for _ in range(5)} == {"1.2"}
    cooldowns = setup.describe()["endpoints"][0]["cooldowns"]
    assert cooldowns == [{"model": "m", "status": 429, "seconds": 60}]


def test_refusal_of_one_model_does_not_affect_other_models() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures["1.1"] = make_rate_limit_error()
    affinity = Affinity(origin=setup.origin("1.1"))
    setup.send(affinity)
    del setup.failures["1.1"]

    assert setup.send(affinity, "up/other-model") == "1.1"
    assert setup.send(affinity, "up/m") == "1.2"


def test_refused_key_cools_down_for_all_models() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures["1.1"] = UpstreamKeyRefused("wrong key")
    affinity = Affinity(origin=setup.origin("1.1"))

    assert setup.send(affinity) == "1.2"
    assert setup.send(affinity, "up/other-model") == "1.2"
    assert setup.calls == ["1.1", "1.2", "1.2"]


NO_CREDIT = UpstreamRefused(402, {"message": "You can afford fewer tokens."})


@check_each("refusal", [UpstreamKeyRefused("not for this model"), NO_CREDIT])
def test_request_that_all_accounts_refuse_does_not_stop_other_requests(
    refusal: ForwarderError,
) -> None:
    setup = EndpointSetup()
    setup.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), refusal)
    assert setup.fail().message == refusal.message
    assert sorted(setup.calls) == ["1.1", "1.2", "2.1", "2.2"]
    setup.failures, setup.calls = {}, []

    assert setup.send(model="up/other-model") == setup.calls[0]
    assert [each for each in setup.describe()["endpoints"] if "cooldowns" not in each] == [
        setup.describe()["endpoints"][int(setup.calls[0][0]) * 2 + int(setup.calls[0][2]) - 3]
    ]


def test_one_endpoint_is_called_for_a_request_while_all_accounts_are_refused() -> None:
    setup = EndpointSetup()
    setup.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), NO_CREDIT)
    setup.fail()
    setup.calls.clear()

    assert {setup.fail().message for _ in range(3)} == {NO_CREDIT.message}
    assert len(setup.calls) == 3


def test_endpoint_with_a_refused_account_and_an_open_breaker_is_not_called() -> None:
    setup = EndpointSetup()
    setup.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), NO_CREDIT)
    setup.fail()
    [settings] = [each for each in setup.settings.upstreams if each.name == "up"]
    for state in setup.resilience._get_endpoint_states(settings):
        if state.settings.endpoint and state.settings.endpoint.label.startswith("1."):
            state.breaker.open_for(5)
    setup.failures.clear()

    for _ in range(10):
        setup.calls.clear()
        assert setup.send() in ("2.1", "2.2")


def test_endpoint_with_a_refused_account_is_not_called_while_another_is_usable() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures = {"1.1": NO_CREDIT, "1.2": BUSY}
    affinity = Affinity(origin=setup.origin("1.1"))

    assert [setup.fail(affinity) for _ in range(2)] == [BUSY, BUSY]
    assert setup.calls == ["1.1", "1.2", "1.2"]


def test_request_that_alone_exceeds_a_limit_starts_no_cooldown() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    message = "Request too large for m on tokens per min (TPM): Limit 30000, Requested 31538."
    refusal = UpstreamRefused(429, {"message": message, "code": "rate_limit_exceeded"})
    setup.failures = {"1.1": refusal, "1.2": refusal}

    assert setup.fail().message == message
    assert sorted(setup.calls) == ["1.1", "1.2"]
    setup.failures = {}
    assert setup.send() in ("1.1", "1.2")


def test_upstream_without_available_endpoints_repeats_the_shortest_refusal() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures = {"1.1": make_rate_limit_error(60), "1.2": make_rate_limit_error(20)}

    first, second = setup.fail(), setup.fail()

    for error in (first, second):
        assert isinstance(error, UpstreamRefused)
        assert (error.status, error.code) == (429, "rate_limit_exceeded")
        assert (error.message, error.headers["retry-after"]) == ("wait 20", "20")
    assert sorted(setup.calls) == ["1.1", "1.2"]
    assert setup.describe()["concurrent"] == 0
    assert setup.observer.notifications == [("refused", "429", "up")]


def test_request_waits_for_the_first_endpoint_if_retries_are_allowed() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1", UP_MAX_RETRIES="1")
    setup.failures = {"1.1": make_rate_limit_error(5), "1.2": make_rate_limit_error(2)}
    context = make_patient_context()

    assert setup.fail(context=context).status == 429
    assert len(context.pauses) == 1
    assert 2 <= context.pauses[0] < 3


def test_request_earns_one_share_of_a_retry_at_any_number_of_endpoints() -> None:
    hosts = ",".join(f"http://{name}.test/v1" for name in "abcdef")
    setup = EndpointSetup(UP_BASE_URL=hosts, UP_API_KEY="k1", UP_MAX_RETRIES="1")
    setup.failures = {f"{host}.1": BUSY for host in range(1, 7)}

    for _ in range(40):
        assert setup.fail() is BUSY

    expected = MAX_SAVED_RETRIES + 40 * RETRIES_PER_REQUEST
    assert setup.describe()["retries"] <= expected + 10  # seconds earn some too
    assert len(setup.calls) == 6 * (40 + setup.describe()["retries"])


def test_unreachable_host_is_avoided_with_all_its_keys() -> None:
    setup = EndpointSetup()
    setup.failures = {"1.1": UNREACHABLE, "1.2": UNREACHABLE}

    assert setup.send(Affinity(origin=setup.origin("1.1"))) in ("2.1", "2.2")
    assert len(setup.calls) == 2


def test_breaker_of_one_host_does_not_affect_the_other() -> None:
    setup = EndpointSetup(UP_BREAKER_FAILURES="2")
    setup.failures = {"1.1": UNREACHABLE, "1.2": UNREACHABLE}
    affinity = Affinity(origin=setup.origin("1.1"))
    for _ in range(4):
        setup.send(affinity)

    assert Counter(name[0] for name in setup.calls) == {"1": 2, "2": 4}
    described = setup.describe()
    assert [each["breaker"] for each in described["endpoints"]] == ["open", "open"] + ["closed"] * 2
    assert described["breaker"] == "closed"
    assert setup.observer.notifications[-1] == ("breaker", "up", "closed")


def test_breakers_of_all_hosts_make_the_upstream_unavailable() -> None:
    setup = EndpointSetup(UP_BREAKER_FAILURES="1")
    setup.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), UNREACHABLE)
    setup.fail()
    call_count = len(setup.calls)

    error = setup.fail()

    assert isinstance(error, UpstreamUnavailable)
    assert (len(setup.calls), call_count) == (2, 2)
    assert setup.describe()["breaker"] == "open"


def test_invalid_request_is_not_tried_elsewhere() -> None:
    setup = EndpointSetup()
    refusal = UpstreamRefused(400, {"message": "wrong"})
    setup.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), refusal)

    assert setup.fail() is refusal
    assert len(setup.calls) == 1


def test_last_failure_is_raised_if_not_all_endpoints_cool_down() -> None:
    setup = EndpointSetup(UP_API_KEY="k1")
    setup.failures = {"1.1": make_rate_limit_error(), "2.1": BUSY}

    assert setup.fail(Affinity(origin=setup.origin("1.1"))) is BUSY


def test_limit_of_the_upstream_is_one_for_all_endpoints() -> None:
    setup = EndpointSetup(UP_MAX_CONCURRENT="2")
    setup.send()
    setup.send()

    assert isinstance(setup.fail(), Overloaded)
    assert len(setup.calls) == 2


def test_pinned_request_uses_only_its_endpoint_even_after_a_refusal() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures["1.2"] = make_rate_limit_error()
    pinned = Affinity(origin=setup.origin("1.2"), is_pinned=True)

    assert setup.fail(pinned).status == 429
    del setup.failures["1.2"]
    assert setup.send(pinned) == "1.2"
    assert set(setup.calls) == {"1.2"}


def test_pin_to_another_upstream_is_ignored() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1")
    setup.failures = {"1.1": make_rate_limit_error()}
    pinned = Affinity(origin="other", is_pinned=True)

    assert {setup.send(pinned) for _ in range(8)} == {"1.2"}


def test_fallback_with_several_endpoints_keeps_conversations_and_pinned_requests() -> None:
    setup = EndpointSetup()
    setup.settings = make_settings(
        "first,up",
        FIRST_FALLBACK="up",
        UP_BASE_URL="http://a.test/v1",
        UP_API_KEY="k1,k2,k3,k4",
    )
    setup.resilience = Resilience(setup.settings, setup.observer)
    setup.failures = {"first": UNREACHABLE}
    endpoint = setup.settings.upstreams[1].replicas[2].endpoint
    assert endpoint is not None

    for number in range(10):
        affinity = Affinity(sticky_key=f"conversation {number}")
        assert len({setup.send(affinity, "first/m") for _ in range(3)}) == 1
        setup.end()
    pinned = Affinity(origin=endpoint.origin, is_pinned=True)
    assert {setup.send(pinned, "first/m") for _ in range(10)} == {"1.4"}


def test_keys_of_clients_do_not_cool_down() -> None:
    setup = EndpointSetup(UP_API_KEY="passthrough")
    setup.failures["1.1"] = make_rate_limit_error()
    affinity = Affinity(origin=setup.origin("1.1"))

    assert setup.send(affinity) == "2.1"
    del setup.failures["1.1"]
    assert setup.send(affinity) == "1.1"


def test_fallback_serves_when_all_endpoints_cool_down() -> None:
    setup = EndpointSetup(UP_BASE_URL="http://a.test/v1", UP_FALLBACK="other")
    setup.failures = {"1.1": make_rate_limit_error(), "1.2": make_rate_limit_error()}

    assert setup.send() == "other"
    assert setup.send() == "other"
    assert Counter(setup.calls) == {"1.1": 1, "1.2": 1, "other": 2}


def test_single_endpoint_is_called_although_it_refused_the_last_request() -> None:
    setup = EndpointSetup()
    setup.failures["other"] = make_rate_limit_error()

    assert [setup.fail(model="other/m").status for _ in range(2)] == [429, 429]
    assert setup.calls == ["other", "other"]
    assert setup.resilience.describe_states()["other"].keys() == {
        "breaker", "concurrent", "attempts",
    } | {"failures"}  # fmt: skip


# -- groups ---------------------------------------------------------------------------------------


GROUPS = "fast=a/one*3,b/two>c/three"


class GroupSetup(EndpointSetup):
    """A group of three upstreams; the third serves when both others do not."""

    def __init__(self, **environment: str) -> None:
        super().__init__()
        self.settings = make_settings("a,b,c", FORWARDER_GROUPS=GROUPS, **environment)
        self.resilience = Resilience(self.settings, self.observer)

    def send_to_group(self, affinity: Affinity = ANYWHERE) -> str:
        return self.send(affinity, "fast")


def count_endpoints(send: Callable[[], str], count: int) -> Counter[str]:
    return Counter(send() for _ in range(count))


def test_members_of_a_group_share_by_weight() -> None:
    setup = GroupSetup()

    assert count_endpoints(setup.send_to_group, 40) == {"a": 30, "b": 10}


class ModelSetup(GroupSetup):
    """A group of two models of one upstream; answers name the model."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = make_settings("a", FORWARDER_GROUPS="fast=a/one*3,a/two")
        self.resilience = Resilience(self.settings, self.observer)

    def name(self, route: Route) -> str:
        return route.model


def test_members_of_one_upstream_share_by_weight_while_it_is_busy() -> None:
    random.seed(1)
    setup = ModelSetup()
    setup.send_to_group()

    shares = count_endpoints(setup.send_to_group, 400)

    assert 0.68 < shares["one"] / 400 < 0.82


def test_continued_responses_are_shared_by_the_members_of_their_upstream() -> None:
    setup = ModelSetup()

    shares = Counter(
        setup.send_to_group(Affinity(f"response {number}", "a")) for number in range(400)
    )

    assert 0.68 < shares["one"] / 400 < 0.82


@check_each("refusal", [UpstreamKeyRefused("not for this model"), NO_CREDIT])
def test_request_that_all_members_refuse_does_not_stop_other_requests(
    refusal: ForwarderError,
) -> None:
    setup = GroupSetup()
    setup.failures = dict.fromkeys("abc", refusal)
    assert setup.fail(model="fast") is refusal
    assert sorted(setup.calls) == ["a", "b", "c"]
    assert setup.fail(model="fast").message == refusal.message
    assert len(setup.calls) == 4
    setup.failures = {}

    assert setup.send_to_group() in ("a", "b")


def test_group_keeps_a_conversation_at_its_member() -> None:
    setup = GroupSetup()
    for number in range(10):
        affinity = Affinity(sticky_key=str(number))
        assert len({setup.send_to_group(affinity) for _ in range(3)}) == 1
        setup.end()


def test_next_member_serves_after_a_failure_and_the_refused_one_cools_down() -> None:
    setup = GroupSetup()
    setup.failures = {"a": make_rate_limit_error(), "b": UNREACHABLE}

    assert setup.send_to_group() == "c"
    assert set(setup.calls) == {"a", "b", "c"}
    assert setup.calls[-1] == "c"
    assert {upstream for upstream, _ in setup.observer.failures} == {"a", "b"}
    setup.failures = {}
    assert count_endpoints(setup.send_to_group, 5) == {"b": 5}


def test_refused_member_is_called_if_the_others_cool_down() -> None:
    setup = GroupSetup()
    setup.failures = {"a": make_rate_limit_error(), "b": NO_CREDIT, "c": NO_CREDIT}
    setup.fail(model="fast")
    setup.calls.clear()
    setup.failures.clear()

    assert setup.send_to_group() in ("b", "c")
    assert len(setup.calls) == 1


def test_next_order_serves_if_all_earlier_members_are_unavailable() -> None:
    setup = GroupSetup(A_BREAKER_FAILURES="1")
    setup.failures = {"a": UNREACHABLE, "b": make_rate_limit_error()}
    setup.send_to_group()
    earlier_calls = list(setup.calls)

    assert count_endpoints(setup.send_to_group, 3) == {"c": 3}
    assert Counter(setup.calls[len(earlier_calls) :]) == {"c": 3}


def test_group_without_available_members_repeats_the_shortest_refusal() -> None:
    setup = GroupSetup()
    setup.failures = {
        "a": make_rate_limit_error(30),
        "b": make_rate_limit_error(10),
        "c": make_rate_limit_error(20),
    }
    setup.fail(model="fast")

    error = setup.fail(model="fast")

    assert (error.status, error.headers["retry-after"]) == (429, "10")
    assert len(setup.calls) == 3


def test_server_errors_open_the_breaker_of_a_member() -> None:
    setup = GroupSetup(A_BREAKER_FAILURES="1", B_BREAKER_FAILURES="1")
    setup.failures = {"a": BUSY, "b": BUSY}
    for number in range(2):  # failures that a request may have caused count after two clients
        context = make_patient_context()
        context.client_address = f"10.0.0.{number}"
        setup.send(model="fast", context=context)

    assert "open" in {setup.resilience.describe_states()[name]["breaker"] for name in ("a", "b")}


def test_invalid_request_is_not_tried_at_other_members() -> None:
    setup = GroupSetup()
    refusal = UpstreamRefused(400, {"message": "wrong"})
    setup.failures = {"a": refusal, "b": refusal}

    assert setup.fail(model="fast") is refusal
    assert len(setup.calls) == 1
