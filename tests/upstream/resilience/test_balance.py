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
from tests.upstream.resilience.helpers import Patient, Witness, make_patient_context, make_settings

BUSY = UpstreamRefused(503, {"message": "busy"})
GONE = UpstreamUnreachable("gone")


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
    points = iter(number / 100 for number in range(100))
    both = make_candidates(a=(3, 3), b=(1, 1))

    shares = Counter(choose_candidate(both, None, lambda: next(points)).value for _ in range(100))

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
def test_sticky_candidate_is_left_if_it_is_much_busier(in_flight: int, is_sticky: bool) -> None:
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


class World:
    """Two hosts with two keys each, and an upstream with one; some fail."""

    def __init__(self, **environment: str) -> None:
        self.failures: dict[str, ForwarderError] = {}
        self.witness = Witness()
        self.settings = make_settings(
            "up,other",
            **{
                "UP_BASE_URL": "http://a.test/v1,http://b.test/v1",
                "UP_API_KEY": "k1,k2",
                **environment,
            },
        )
        self.resilience = Resilience(self.settings, self.witness)
        self.asked: list[str] = []
        self.cleanups: list[CleanupStack] = []

    def name(self, route: Route) -> str:
        endpoint = route.upstream.endpoint
        return route.upstream.name if endpoint is None else endpoint.label

    def ask(
        self, affinity: Affinity = ANYWHERE, model: str = "up/m", context: Patient | None = None
    ) -> str:
        """The endpoint that answered; as a handler does, each call runs through its state."""
        asking = context or make_patient_context()
        routes = Router(self.settings).list_routes(model, "chat")

        def call(route: Route) -> EventStream:
            name = self.name(route)

            def handle_request(request: dict[str, Any]) -> EventStream:
                self.asked.append(name)
                if name in self.failures:
                    raise self.failures[name]
                return iter([[{"from": name}]])

            state = self.resilience.upstream_states.get_or_create(route.upstream)
            return state.with_retries(handle_request, asking)({})

        stream = self.resilience.open_first_available(routes, call, asking, affinity)
        self.cleanups.append(asking.cleanup)
        return str(next(iter(stream))[0]["from"])

    def fail(self, *arguments: Any, **named: Any) -> ForwarderError:
        with pytest.raises(ForwarderError) as raised:
            self.ask(*arguments, **named)
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
    world = World()

    answered = [world.ask() for _ in range(8)]

    assert Counter(answered) == {"1.1": 2, "1.2": 2, "2.1": 2, "2.2": 2}
    assert world.describe()["concurrent"] == 8
    world.end()
    assert world.describe()["concurrent"] == 0
    assert [each["concurrent"] for each in world.describe()["endpoints"]] == [0, 0, 0, 0]


def test_weights_of_hosts_decide_their_shares() -> None:
    world = World(UP_API_KEY="k1", UP_WEIGHTS="3,1")

    answered = Counter(world.ask() for _ in range(40))

    assert answered == {"1.1": 30, "2.1": 10}


def test_conversation_keeps_its_endpoint() -> None:
    world = World()
    for number in range(10):
        affinity = Affinity(sticky_key=f"conversation {number}")
        assert len({world.ask(affinity) for _ in range(3)}) == 1
        world.end()


def test_refused_request_goes_on_with_the_next_key_and_the_key_cools_down() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures["1.1"] = make_rate_limit_error(60)
    affinity = Affinity(origin=world.origin("1.1"))
    context = make_patient_context()

    assert world.ask(affinity, context=context) == "1.2"
    assert world.asked == ["1.1", "1.2"]
    assert context.failed_endpoints == ["1.1"]
    assert context.endpoint is not None
    assert context.endpoint.label == "1.2"
    assert context.pauses == []
    assert {world.ask(affinity) for _ in range(5)} == {"1.2"}
    cooldowns = world.describe()["endpoints"][0]["cooldowns"]
    assert cooldowns == [{"model": "m", "status": 429, "seconds": 60}]


def test_refusal_of_one_model_leaves_other_models_alone() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures["1.1"] = make_rate_limit_error()
    affinity = Affinity(origin=world.origin("1.1"))
    world.ask(affinity)
    del world.failures["1.1"]

    assert world.ask(affinity, "up/other-model") == "1.1"
    assert world.ask(affinity, "up/m") == "1.2"


def test_refused_key_cools_down_for_all_models() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures["1.1"] = UpstreamKeyRefused("wrong key")
    affinity = Affinity(origin=world.origin("1.1"))

    assert world.ask(affinity) == "1.2"
    assert world.ask(affinity, "up/other-model") == "1.2"
    assert world.asked == ["1.1", "1.2", "1.2"]


NO_CREDIT = UpstreamRefused(402, {"message": "You can afford fewer tokens."})


@check_each("refusal", [UpstreamKeyRefused("not for this model"), NO_CREDIT])
def test_request_that_all_accounts_refuse_does_not_stop_other_requests(
    refusal: ForwarderError,
) -> None:
    world = World()
    world.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), refusal)
    assert world.fail().message == refusal.message
    assert sorted(world.asked) == ["1.1", "1.2", "2.1", "2.2"]
    world.failures, world.asked = {}, []

    assert world.ask(model="up/other-model") == world.asked[0]
    assert [each for each in world.describe()["endpoints"] if "cooldowns" not in each] == [
        world.describe()["endpoints"][int(world.asked[0][0]) * 2 + int(world.asked[0][2]) - 3]
    ]


def test_one_endpoint_is_called_for_a_request_while_all_accounts_are_refused() -> None:
    world = World()
    world.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), NO_CREDIT)
    world.fail()
    world.asked.clear()

    assert {world.fail().message for _ in range(3)} == {NO_CREDIT.message}
    assert len(world.asked) == 3


def test_endpoint_with_a_refused_account_and_an_open_breaker_is_not_called() -> None:
    world = World()
    world.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), NO_CREDIT)
    world.fail()
    [settings] = [each for each in world.settings.upstreams if each.name == "up"]
    for state in world.resilience._get_endpoint_states(settings):
        if state.settings.endpoint and state.settings.endpoint.label.startswith("1."):
            state.breaker.open_for(5)
    world.failures.clear()

    for _ in range(10):
        world.asked.clear()
        assert world.ask() in ("2.1", "2.2")


def test_endpoint_with_a_refused_account_is_not_called_while_another_is_usable() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures = {"1.1": NO_CREDIT, "1.2": BUSY}
    affinity = Affinity(origin=world.origin("1.1"))

    assert [world.fail(affinity) for _ in range(2)] == [BUSY, BUSY]
    assert world.asked == ["1.1", "1.2", "1.2"]


def test_request_that_alone_exceeds_a_limit_starts_no_cooldown() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    message = "Request too large for m on tokens per min (TPM): Limit 30000, Requested 31538."
    refusal = UpstreamRefused(429, {"message": message, "code": "rate_limit_exceeded"})
    world.failures = {"1.1": refusal, "1.2": refusal}

    assert world.fail().message == message
    assert sorted(world.asked) == ["1.1", "1.2"]
    world.failures = {}
    assert world.ask() in ("1.1", "1.2")


def test_upstream_without_available_endpoints_repeats_the_shortest_refusal() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures = {"1.1": make_rate_limit_error(60), "1.2": make_rate_limit_error(20)}

    first, second = world.fail(), world.fail()

    for error in (first, second):
        assert isinstance(error, UpstreamRefused)
        assert (error.status, error.code) == (429, "rate_limit_exceeded")
        assert (error.message, error.headers["retry-after"]) == ("wait 20", "20")
    assert sorted(world.asked) == ["1.1", "1.2"]
    assert world.describe()["concurrent"] == 0
    assert world.witness.heard == [("refused", "429", "up")]


def test_request_waits_for_the_first_endpoint_if_retries_are_allowed() -> None:
    world = World(UP_BASE_URL="http://a.test/v1", UP_MAX_RETRIES="1")
    world.failures = {"1.1": make_rate_limit_error(5), "1.2": make_rate_limit_error(2)}
    context = make_patient_context()

    assert world.fail(context=context).status == 429
    assert len(context.pauses) == 1
    assert 2 <= context.pauses[0] < 3


def test_request_earns_one_share_of_a_retry_at_any_number_of_endpoints() -> None:
    hosts = ",".join(f"http://{name}.test/v1" for name in "abcdef")
    world = World(UP_BASE_URL=hosts, UP_API_KEY="k1", UP_MAX_RETRIES="1")
    world.failures = {f"{host}.1": BUSY for host in range(1, 7)}

    for _ in range(40):
        assert world.fail() is BUSY

    saved = MAX_SAVED_RETRIES + 40 * RETRIES_PER_REQUEST
    assert world.describe()["retries"] <= saved + 10  # seconds earn some too
    assert len(world.asked) == 6 * (40 + world.describe()["retries"])


def test_unreachable_host_is_left_with_all_its_keys() -> None:
    world = World()
    world.failures = {"1.1": GONE, "1.2": GONE}

    assert world.ask(Affinity(origin=world.origin("1.1"))) in ("2.1", "2.2")
    assert len(world.asked) == 2


def test_breaker_of_one_host_leaves_the_other_alone() -> None:
    world = World(UP_BREAKER_FAILURES="2")
    world.failures = {"1.1": GONE, "1.2": GONE}
    affinity = Affinity(origin=world.origin("1.1"))
    for _ in range(4):
        world.ask(affinity)

    assert Counter(name[0] for name in world.asked) == {"1": 2, "2": 4}
    described = world.describe()
    assert [each["breaker"] for each in described["endpoints"]] == ["open", "open"] + ["closed"] * 2
    assert described["breaker"] == "closed"
    assert world.witness.heard[-1] == ("breaker", "up", "closed")


def test_breakers_of_all_hosts_make_the_upstream_unavailable() -> None:
    world = World(UP_BREAKER_FAILURES="1")
    world.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), GONE)
    world.fail()
    asked = len(world.asked)

    error = world.fail()

    assert isinstance(error, UpstreamUnavailable)
    assert (len(world.asked), asked) == (2, 2)
    assert world.describe()["breaker"] == "open"


def test_invalid_request_is_not_tried_elsewhere() -> None:
    world = World()
    wrong = UpstreamRefused(400, {"message": "wrong"})
    world.failures = dict.fromkeys(("1.1", "1.2", "2.1", "2.2"), wrong)

    assert world.fail() is wrong
    assert len(world.asked) == 1


def test_last_failure_is_raised_if_not_all_endpoints_cool_down() -> None:
    world = World(UP_API_KEY="k1")
    world.failures = {"1.1": make_rate_limit_error(), "2.1": BUSY}

    assert world.fail(Affinity(origin=world.origin("1.1"))) is BUSY


def test_limit_of_the_upstream_is_one_for_all_endpoints() -> None:
    world = World(UP_MAX_CONCURRENT="2")
    world.ask()
    world.ask()

    assert isinstance(world.fail(), Overloaded)
    assert len(world.asked) == 2


def test_pinned_request_uses_only_its_endpoint_even_after_a_refusal() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures["1.2"] = make_rate_limit_error()
    pinned = Affinity(origin=world.origin("1.2"), is_pinned=True)

    assert world.fail(pinned).status == 429
    del world.failures["1.2"]
    assert world.ask(pinned) == "1.2"
    assert set(world.asked) == {"1.2"}


def test_pin_to_another_upstream_pins_nothing() -> None:
    world = World(UP_BASE_URL="http://a.test/v1")
    world.failures = {"1.1": make_rate_limit_error()}
    pinned = Affinity(origin="other", is_pinned=True)

    assert {world.ask(pinned) for _ in range(8)} == {"1.2"}


def test_fallback_with_several_endpoints_keeps_a_conversation_and_what_is_pinned() -> None:
    world = World()
    world.settings = make_settings(
        "first,up",
        FIRST_FALLBACK="up",
        UP_BASE_URL="http://a.test/v1",
        UP_API_KEY="k1,k2,k3,k4",
    )
    world.resilience = Resilience(world.settings, world.witness)
    world.failures = {"first": GONE}
    endpoint = world.settings.upstreams[1].replicas[2].endpoint
    assert endpoint is not None

    for number in range(10):
        affinity = Affinity(sticky_key=f"conversation {number}")
        assert len({world.ask(affinity, "first/m") for _ in range(3)}) == 1
        world.end()
    pinned = Affinity(origin=endpoint.origin, is_pinned=True)
    assert {world.ask(pinned, "first/m") for _ in range(10)} == {"1.4"}


def test_keys_of_clients_do_not_cool_down() -> None:
    world = World(UP_API_KEY="passthrough")
    world.failures["1.1"] = make_rate_limit_error()
    affinity = Affinity(origin=world.origin("1.1"))

    assert world.ask(affinity) == "2.1"
    del world.failures["1.1"]
    assert world.ask(affinity) == "1.1"


def test_fallback_serves_when_all_endpoints_cool_down() -> None:
    world = World(UP_BASE_URL="http://a.test/v1", UP_FALLBACK="other")
    world.failures = {"1.1": make_rate_limit_error(), "1.2": make_rate_limit_error()}

    assert world.ask() == "other"
    assert world.ask() == "other"
    assert Counter(world.asked) == {"1.1": 1, "1.2": 1, "other": 2}


def test_single_endpoint_is_called_although_it_refused_the_last_request() -> None:
    world = World()
    world.failures["other"] = make_rate_limit_error()

    assert [world.fail(model="other/m").status for _ in range(2)] == [429, 429]
    assert world.asked == ["other", "other"]
    assert world.resilience.describe_states()["other"].keys() == {
        "breaker", "concurrent", "attempts",
    } | {"failures"}  # fmt: skip


# -- groups ---------------------------------------------------------------------------------------


GROUPS = "fast=a/one*3,b/two>c/three"


class GroupWorld(World):
    """A group of three upstreams; the third serves when both others do not."""

    def __init__(self, **environment: str) -> None:
        super().__init__()
        self.settings = make_settings("a,b,c", FORWARDER_GROUPS=GROUPS, **environment)
        self.resilience = Resilience(self.settings, self.witness)

    def ask_group(self, affinity: Affinity = ANYWHERE) -> str:
        return self.ask(affinity, "fast")


def fill(ask: Callable[[], str], count: int) -> Counter[str]:
    return Counter(ask() for _ in range(count))


def test_members_of_a_group_share_by_weight() -> None:
    world = GroupWorld()

    assert fill(world.ask_group, 40) == {"a": 30, "b": 10}


class ModelWorld(GroupWorld):
    """A group of two models of one upstream; answers name the model."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = make_settings("a", FORWARDER_GROUPS="fast=a/one*3,a/two")
        self.resilience = Resilience(self.settings, self.witness)

    def name(self, route: Route) -> str:
        return route.model


def test_members_of_one_upstream_share_by_weight_while_it_is_busy() -> None:
    random.seed(1)
    world = ModelWorld()
    world.ask_group()

    shares = fill(world.ask_group, 400)

    assert 0.68 < shares["one"] / 400 < 0.82


def test_continued_responses_are_shared_by_the_members_of_their_upstream() -> None:
    world = ModelWorld()

    shares = Counter(world.ask_group(Affinity(f"response {number}", "a")) for number in range(400))

    assert 0.68 < shares["one"] / 400 < 0.82


@check_each("refusal", [UpstreamKeyRefused("not for this model"), NO_CREDIT])
def test_request_that_all_members_refuse_does_not_stop_other_requests(
    refusal: ForwarderError,
) -> None:
    world = GroupWorld()
    world.failures = dict.fromkeys("abc", refusal)
    assert world.fail(model="fast") is refusal
    assert sorted(world.asked) == ["a", "b", "c"]
    assert world.fail(model="fast").message == refusal.message
    assert len(world.asked) == 4
    world.failures = {}

    assert world.ask_group() in ("a", "b")


def test_group_keeps_a_conversation_at_its_member() -> None:
    world = GroupWorld()
    for number in range(10):
        affinity = Affinity(sticky_key=str(number))
        assert len({world.ask_group(affinity) for _ in range(3)}) == 1
        world.end()


def test_next_member_serves_after_a_failure_and_the_refused_one_cools_down() -> None:
    world = GroupWorld()
    world.failures = {"a": make_rate_limit_error(), "b": GONE}

    assert world.ask_group() == "c"
    assert set(world.asked) == {"a", "b", "c"}
    assert world.asked[-1] == "c"
    assert {upstream for upstream, _ in world.witness.failures} == {"a", "b"}
    world.failures = {}
    assert fill(world.ask_group, 5) == {"b": 5}


def test_refused_member_is_called_if_the_others_cool_down() -> None:
    world = GroupWorld()
    world.failures = {"a": make_rate_limit_error(), "b": NO_CREDIT, "c": NO_CREDIT}
    world.fail(model="fast")
    world.asked.clear()
    world.failures.clear()

    assert world.ask_group() in ("b", "c")
    assert len(world.asked) == 1


def test_next_order_serves_while_all_before_cool_down_or_are_broken() -> None:
    world = GroupWorld(A_BREAKER_FAILURES="1")
    world.failures = {"a": GONE, "b": make_rate_limit_error()}
    world.ask_group()
    asked = list(world.asked)

    assert fill(world.ask_group, 3) == {"c": 3}
    assert Counter(world.asked[len(asked) :]) == {"c": 3}


def test_group_without_available_members_repeats_the_shortest_refusal() -> None:
    world = GroupWorld()
    world.failures = {
        "a": make_rate_limit_error(30),
        "b": make_rate_limit_error(10),
        "c": make_rate_limit_error(20),
    }
    world.fail(model="fast")

    error = world.fail(model="fast")

    assert (error.status, error.headers["retry-after"]) == (429, "10")
    assert len(world.asked) == 3


def test_server_errors_open_the_breaker_of_a_member() -> None:
    world = GroupWorld(A_BREAKER_FAILURES="1", B_BREAKER_FAILURES="1")
    world.failures = {"a": BUSY, "b": BUSY}
    for number in range(2):  # failures that a request may have caused count after two clients
        context = make_patient_context()
        context.client_address = f"10.0.0.{number}"
        world.ask(model="fast", context=context)

    assert "open" in {world.resilience.describe_states()[name]["breaker"] for name in ("a", "b")}


def test_invalid_request_is_not_tried_at_other_members() -> None:
    world = GroupWorld()
    wrong = UpstreamRefused(400, {"message": "wrong"})
    world.failures = {"a": wrong, "b": wrong}

    assert world.fail(model="fast") is wrong
    assert len(world.asked) == 1
