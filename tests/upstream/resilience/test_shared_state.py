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
    """A worker with two keys at one host and its own clock."""

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

    def describe_obstacle(self, key: int = 0, model: str = "m") -> tuple[float, int] | None:
        obstacle = self.states[key].find_obstacle(model)
        return None if obstacle is None else (round(obstacle.seconds, 3), obstacle.error.status)


class ProcessPair:
    def __init__(self) -> None:
        self.storage = Storage()
        self.first, self.second = Process(self.storage, 100.0), Process(self.storage, 900.0)

    def exchange(self) -> None:
        for process in (self.first, self.second, self.first):
            process.shared.exchange()

    def advance(self, seconds: float) -> None:
        for clock in (self.storage.clock, self.first.clock, self.second.clock):
            clock.advance(seconds)


def test_cooldown_is_shared_with_its_refusal() -> None:
    pair = ProcessPair()
    pair.first.fail(refuse(429, {"retry-after": "30"}))

    pair.exchange()

    assert pair.second.describe_obstacle() == (30, 429)
    assert pair.second.describe_obstacle(key=1) is None
    assert pair.second.describe_obstacle(model="other") is None


def test_refused_key_is_shared() -> None:
    pair = ProcessPair()
    pair.first.fail(UpstreamKeyRefused("The key is wrong."))

    pair.exchange()

    assert pair.second.describe_obstacle(model="any") == (600, 403)


def test_shared_cooldown_ends_at_the_same_time() -> None:
    pair = ProcessPair()
    pair.first.fail(refuse(429, {"retry-after": "30"}))
    pair.advance(10)
    pair.exchange()

    assert pair.second.describe_obstacle() == (20, 429)
    pair.advance(21)
    pair.exchange()

    assert (pair.first.describe_obstacle(), pair.second.describe_obstacle()) == (None, None)
    pair.exchange()
    assert pair.storage.entries == {}


@check_each("polling_processes", [["first"], ["second"], ["first", "second"]])
def test_cooldown_that_starts_again_is_shared_again(polling_processes: list[str]) -> None:
    pair = ProcessPair()
    pair.first.fail(refuse(429, {"retry-after": "10"}))
    pair.exchange()
    pair.advance(11)
    for name in polling_processes:
        getattr(pair, name).shared.exchange()

    pair.first.fail(refuse(429, {"retry-after": "30"}))
    pair.exchange()

    assert pair.second.describe_obstacle() == (30, 429)


def test_shared_cooldown_is_no_longer_than_others_if_the_storage_changes_its_clock() -> None:
    pair = ProcessPair()
    pair.first.fail(refuse(429, {"retry-after": "30"}))
    pair.first.shared.exchange()
    pair.storage.clock.advance(-7200)

    pair.second.shared.exchange()

    assert pair.second.describe_obstacle() == (MAX_COOLDOWN_SECONDS, 429)
    pair.advance(1800)
    pair.second.shared.exchange()
    assert pair.second.describe_obstacle() == (MAX_COOLDOWN_SECONDS - 1800, 429)


def test_cooldowns_beyond_the_maximum_are_not_shared() -> None:
    pair = ProcessPair()
    for number in range(MAX_MODELS + 10):
        pair.first.fail(refuse(429), model=f"m{number}")

    pair.exchange()

    assert pair.storage.writes == MAX_MODELS


def test_cooldowns_that_end_while_the_storage_is_down_are_forgotten() -> None:
    pair = ProcessPair()
    pair.storage.is_down = True
    for number in range(100):
        pair.first.fail(refuse(429, {"retry-after": "1"}), model=f"m{number}")
        pair.exchange()
        pair.advance(1)
    pair.storage.is_down = False

    pair.exchange()

    assert pair.storage.writes <= 1


def test_open_breaker_is_shared_and_each_process_tries_again() -> None:
    pair = ProcessPair()
    pair.first.fail(UpstreamUnreachable("gone"))

    pair.exchange()

    breaker = pair.second.states[0].breaker
    assert (breaker.state, breaker.remaining_cooldown) == (OPEN, 15)
    pair.advance(15)
    assert breaker.admit_request()
    pair.exchange()
    assert breaker.state == "half_open"


def test_breaker_closes_only_where_a_trial_succeeded() -> None:
    pair = ProcessPair()
    pair.first.fail(UpstreamUnreachable("gone"))
    pair.exchange()
    pair.advance(15.01)
    state = pair.second.states[0]
    state.admit_request()

    state.with_retries(lambda request: iter(()), make_patient_context())({})
    pair.exchange()

    assert state.breaker.state == CLOSED
    assert pair.first.states[0].breaker.state == "half_open"


def test_unchanged_states_are_written_once() -> None:
    pair = ProcessPair()
    pair.first.fail(refuse(429, {"retry-after": "30"}))
    pair.first.fail(UpstreamUnreachable("gone"), key=1)

    for _ in range(3):
        pair.exchange()

    assert pair.storage.writes == 2


def test_storage_contains_no_key() -> None:
    pair = ProcessPair()
    pair.first.fail(refuse(429, {"retry-after": "30"}))
    pair.first.fail(UpstreamUnreachable("gone"))
    pair.exchange()

    assert pair.storage.entries
    assert "secret-key" not in repr(pair.storage.entries)


def test_states_stay_local_while_the_storage_is_down_and_are_shared_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = ProcessPair()
    pair.storage.is_down = True
    with caplog.at_level(logging.WARNING, "forwarder.resilience"):
        pair.first.fail(refuse(429, {"retry-after": "30"}))
        pair.exchange()
        pair.first.shared.exchange()
        assert pair.first.describe_obstacle() == (30, 429)
        assert pair.second.describe_obstacle() is None

        pair.storage.is_down = False
        pair.exchange()

    assert pair.second.describe_obstacle() == (30, 429)
    events = [getattr(record, "event", None) for record in caplog.records]
    assert events.count("shared_state_down") == 2
    assert events.count("shared_state_up") == 2
    assert "password" not in caplog.text


def test_entries_of_other_versions_are_removed() -> None:
    pair = ProcessPair()
    pair.storage.entries = {
        "cooldown:up~x m": b"not JSON",
        "cooldown:y": b"[1]",
        "open:z": b'{"until":"x"}',
    }

    pair.exchange()
    pair.exchange()

    assert pair.storage.entries == {}
    assert pair.second.describe_obstacle() is None


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
