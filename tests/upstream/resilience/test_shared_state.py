"""Cooldowns and open breakers that processes share through a storage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import ForwarderError, UpstreamKeyRefused, UpstreamUnreachable
from forwarder.core.types import EventStream
from forwarder.upstream.resilience import Resilience, UpstreamState
from forwarder.upstream.resilience.breaker import CLOSED, OPEN
from forwarder.upstream.resilience.cooldowns import MAX_COOLDOWN_SECONDS, MAX_MODELS
from forwarder.upstream.resilience.shared_state import SharedState, Snapshot
from tests.helpers.check_cases import check_each
from tests.upstream.resilience.helpers import Clock, make_patient_context, make_settings
from tests.upstream.resilience.test_cooldowns import refuse


class Storage:
    """A storage with a clock of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.seconds = 5_000_000.0
        self.entries: dict[str, bytes] = {}
        self.is_down = False
        self.writes = 0

    def exchange(self, entries: Mapping[str, bytes], expired: Mapping[str, bytes]) -> Snapshot:
        if self.is_down:
            raise ConnectionError("redis://:password@host refused")
        self.writes += len(entries)
        self.entries |= entries
        for field, value in expired.items():
            if self.entries.get(field) == value:
                del self.entries[field]
        return Snapshot(dict(self.entries), self.clock())


class Process:
    """A worker with two keys at one host; its clock has nothing to do with other clocks."""

    def __init__(self, storage: Storage, seconds: float) -> None:
        self.clock = Clock()
        self.clock.seconds = seconds
        self.storage = storage
        configured = make_settings(
            "up,single", UP_API_KEY="secret-key-1,secret-key-2", UP_BREAKER_FAILURES="1"
        )
        self.upstream, self.single = configured.upstreams
        self.shared = SharedState(storage, self.clock)
        self.states = [
            UpstreamState(each, Resilience(configured).observer, self.clock)
            for each in self.upstream.endpoints
        ]
        for state in self.states:
            self.shared.connect(state)

    def fail(self, error: ForwarderError, key: int = 0, model: str = "m") -> None:
        def refuse_request(request: Any) -> EventStream:
            raise error

        context: RequestContext = make_patient_context()
        context.model = model
        with pytest.raises(ForwarderError):
            self.states[key].with_retries(refuse_request, context)({})

    def obstacle(self, key: int = 0, model: str = "m") -> tuple[float, int] | None:
        found = self.states[key].find_obstacle(model)
        return None if found is None else (round(found.seconds, 3), found.error.status)


class Two:
    def __init__(self) -> None:
        self.storage = Storage()
        self.first, self.second = Process(self.storage, 100.0), Process(self.storage, 900.0)

    def exchange(self) -> None:
        for process in (self.first, self.second, self.first):
            process.shared.exchange()

    def pass_(self, seconds: float) -> None:
        for clock in (self.storage.clock, self.first.clock, self.second.clock):
            clock.pass_(seconds)


def test_cooldown_is_shared_with_its_refusal() -> None:
    two = Two()
    two.first.fail(refuse(429, {"retry-after": "30"}))

    two.exchange()

    assert two.second.obstacle() == (30, 429)
    assert two.second.obstacle(key=1) is None
    assert two.second.obstacle(model="other") is None


def test_refused_key_is_shared() -> None:
    two = Two()
    two.first.fail(UpstreamKeyRefused("The key is wrong."))

    two.exchange()

    assert two.second.obstacle(model="any") == (600, 403)


def test_shared_cooldown_ends_at_the_same_time() -> None:
    two = Two()
    two.first.fail(refuse(429, {"retry-after": "30"}))
    two.pass_(10)
    two.exchange()

    assert two.second.obstacle() == (20, 429)
    two.pass_(21)
    two.exchange()

    assert (two.first.obstacle(), two.second.obstacle()) == (None, None)
    two.exchange()
    assert two.storage.entries == {}


@check_each("sees_end", [["first"], ["second"], ["first", "second"]])
def test_cooldown_that_starts_again_is_shared_again(sees_end: list[str]) -> None:
    two = Two()
    two.first.fail(refuse(429, {"retry-after": "10"}))
    two.exchange()
    two.pass_(11)
    for name in sees_end:
        getattr(two, name).shared.exchange()

    two.first.fail(refuse(429, {"retry-after": "30"}))
    two.exchange()

    assert two.second.obstacle() == (30, 429)


def test_shared_cooldown_is_no_longer_than_others_if_the_storage_changes_its_clock() -> None:
    two = Two()
    two.first.fail(refuse(429, {"retry-after": "30"}))
    two.first.shared.exchange()
    two.storage.clock.pass_(-7200)

    two.second.shared.exchange()

    assert two.second.obstacle() == (MAX_COOLDOWN_SECONDS, 429)
    two.pass_(1800)
    two.second.shared.exchange()
    assert two.second.obstacle() == (MAX_COOLDOWN_SECONDS - 1800, 429)


def test_cooldowns_that_nobody_keeps_are_not_shared() -> None:
    two = Two()
    for number in range(MAX_MODELS + 10):
        two.first.fail(refuse(429), model=f"m{number}")

    two.exchange()

    assert two.storage.writes == MAX_MODELS


def test_cooldowns_that_end_while_the_storage_is_down_are_forgotten() -> None:
    two = Two()
    two.storage.is_down = True
    for number in range(100):
        two.first.fail(refuse(429, {"retry-after": "1"}), model=f"m{number}")
        two.exchange()
        two.pass_(1)
    two.storage.is_down = False

    two.exchange()

    assert two.storage.writes <= 1


def test_open_breaker_is_shared_and_each_process_tries_again() -> None:
    two = Two()
    two.first.fail(UpstreamUnreachable("gone"))

    two.exchange()

    breaker = two.second.states[0].breaker
    assert (breaker.state, breaker.remaining_cooldown) == (OPEN, 15)
    two.pass_(15)
    assert breaker.admit_request()
    two.exchange()
    assert breaker.state == "half_open"


def test_breaker_closes_only_where_a_trial_succeeded() -> None:
    two = Two()
    two.first.fail(UpstreamUnreachable("gone"))
    two.exchange()
    two.pass_(15.01)
    state = two.second.states[0]
    state.admit_request()

    state.with_retries(lambda request: iter(()), make_patient_context())({})
    two.exchange()

    assert state.breaker.state == CLOSED
    assert two.first.states[0].breaker.state == "half_open"


def test_news_are_written_once() -> None:
    two = Two()
    two.first.fail(refuse(429, {"retry-after": "30"}))
    two.first.fail(UpstreamUnreachable("gone"), key=1)

    for _ in range(3):
        two.exchange()

    assert two.storage.writes == 2


def test_storage_learns_no_key() -> None:
    two = Two()
    two.first.fail(refuse(429, {"retry-after": "30"}))
    two.first.fail(UpstreamUnreachable("gone"))
    two.exchange()

    assert two.storage.entries
    assert "secret-key" not in repr(two.storage.entries)


def test_states_stay_local_while_the_storage_is_down_and_are_shared_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    two = Two()
    two.storage.is_down = True
    with caplog.at_level(logging.WARNING, "forwarder.resilience"):
        two.first.fail(refuse(429, {"retry-after": "30"}))
        two.exchange()
        two.first.shared.exchange()
        assert two.first.obstacle() == (30, 429)
        assert two.second.obstacle() is None

        two.storage.is_down = False
        two.exchange()

    assert two.second.obstacle() == (30, 429)
    events = [getattr(record, "event", None) for record in caplog.records]
    assert events.count("shared_state_down") == 2
    assert events.count("shared_state_up") == 2
    assert "password" not in caplog.text


def test_entries_of_other_versions_are_removed() -> None:
    two = Two()
    two.storage.entries = {
        "cooldown:up~x m": b"not JSON",
        "cooldown:y": b"[1]",
        "open:z": b'{"until":"x"}',
    }

    two.exchange()
    two.exchange()

    assert two.storage.entries == {}
    assert two.second.obstacle() is None


def test_single_endpoint_shares_its_breaker_and_no_cooldown() -> None:
    storage = Storage()
    process = Process(storage, 50.0)
    state = UpstreamState(process.single, Resilience(make_settings()).observer, process.clock)
    process.shared.connect(state)
    process.states = [state]

    process.fail(refuse(429, {"retry-after": "30"}))
    process.shared.exchange()

    assert storage.entries == {}


def test_task_exchanges_until_it_stops() -> None:
    storage = Storage()
    process = Process(storage, 50.0)
    process.fail(refuse(429, {"retry-after": "30"}))

    process.shared.start()
    process.shared.stop()

    assert storage.writes == 1


def test_resilience_connects_all_its_states() -> None:
    storage = Storage()
    configured = make_settings("up", UP_API_KEY="k1,k2")
    resilience = Resilience(configured)
    shared = SharedState(storage)
    resilience.share_states(shared)

    def refuse_route(route: Route) -> EventStream:
        state = resilience.upstream_states.get_or_create(route.upstream)
        context = make_patient_context()
        context.model = "m"

        def refuse_request(request: Any) -> EventStream:
            raise refuse(429, {"retry-after": "30"})

        return state.with_retries(refuse_request, context)({})

    with pytest.raises(ForwarderError):
        resilience.open_first_available(
            [Route(configured.upstreams[0], "chat", "m")], refuse_route, make_patient_context()
        )
    shared.exchange()

    assert len(storage.entries) == 2
