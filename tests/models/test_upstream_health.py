"""Health checks of upstreams."""

from __future__ import annotations

import logging
import threading
import time

import httpx2
import pytest

from forwarder.context.request_context import RequestObserver
from forwarder.models import upstream_health
from forwarder.models.health_probe import ProbeResult
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.upstream_health import HealthMonitor, HealthTarget, vary_pause
from tests.helpers.check_cases import check_each
from tests.models.remotes import (
    Answer,
    answer_normally,
    connect_upstream,
    refuse_connection,
    refusing,
)


class RecordingObserver(RequestObserver):
    """Records health check notifications."""

    def __init__(self) -> None:
        self.results: list[tuple[str, bool]] = []

    def on_health_check(self, upstream: str, is_healthy: bool, seconds: float) -> None:
        assert seconds >= 0
        self.results.append((upstream, is_healthy))


class HealthSetup:
    """Two targets with configurable results."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"a": answer_normally, "b": answer_normally}
        self.observer = RecordingObserver()
        self.targets = [
            HealthTarget(
                name, connect_upstream(lambda request, name=name: self.answers[name](request)), "m"
            )
            for name in self.answers
        ]
        self.health = HealthMonitor(lambda: self.targets, self.observer)

    def check_models(self, max_age: float = 0.0) -> dict[str, bool]:
        return {name: check.is_healthy for name, check in self.health.check_all(max_age).items()}


def test_check_all_reports_all_targets_despite_a_failure() -> None:
    setup = HealthSetup()
    setup.answers["a"] = refuse_connection

    assert setup.check_models() == {"a": False, "b": True}
    assert sorted(setup.observer.results) == [("a", False), ("b", True)]


def test_recent_result_is_reused() -> None:
    setup = HealthSetup()
    setup.check_models()
    setup.answers["a"] = refuse_connection

    assert setup.check_models(max_age=60) == {"a": True, "b": True}
    assert setup.check_models(max_age=0) == {"a": False, "b": True}


def test_last_result_is_dropped_with_its_upstream() -> None:
    setup = HealthSetup()
    target = setup.targets[0]
    assert setup.health.get_last_result("a", target.upstream) is None

    check = setup.health.check_target(target, 60)

    assert setup.health.get_last_result("a", target.upstream) is check
    assert setup.health.get_last_result("a", connect_upstream(answer_normally)) is None


def test_history_keeps_the_latest_results_and_when_the_state_began() -> None:
    setup = HealthSetup()
    target = setup.targets[0]
    assert setup.health.get_history("a", target.upstream) is None
    for second in range(upstream_health.HISTORY_SIZE + 5):
        is_down = second in (3, 4, 5)
        setup.health.record_result(
            target, ProbeResult(not is_down, fault="host" if is_down else None, checked_at=second)
        )
        history = setup.health.get_history("a", target.upstream)
        assert history is not None
        assert history.since == (0 if second < 3 else 3 if is_down else 6)

    times = [result.checked_at for result in history.results]
    assert times == [*range(5, upstream_health.HISTORY_SIZE + 5)]
    assert history.last.checked_at == times[-1]
    assert setup.health.get_history("a", connect_upstream(answer_normally)) is None


def test_known_model_stays_known_while_healthy() -> None:
    setup = HealthSetup()
    setup.health.record_result(setup.targets[0], ProbeResult(True, True, True))
    setup.answers["a"] = refusing(404)  # it lists no models

    assert setup.health.check_target(setup.targets[0], 0).is_model_known is True
    setup.answers["a"] = refuse_connection
    assert setup.health.check_target(setup.targets[0], 0).is_model_known is None


def test_health_changes_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    setup = HealthSetup()
    with caplog.at_level(logging.WARNING, "forwarder.health"):
        for answer in (
            answer_normally,
            refuse_connection,
            refuse_connection,
            answer_normally,
            answer_normally,
        ):
            setup.answers["a"] = answer
            setup.health.check_target(setup.targets[0], 0)

    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "'a' is unhealthy",
        "'a' is healthy again",
    ]


def test_background_checks_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup, intervals = HealthSetup(), []
    third_pause = threading.Event()

    def vary_pause(interval: float) -> float:
        intervals.append(interval)
        if len(intervals) == 1:
            setup.targets.pop()
        if len(intervals) == 2:
            setup.health._targets = lambda: [].pop()  # an exception does not end the loop
        if len(intervals) == 3:
            third_pause.set()
            return 60.0
        return 0.0

    monkeypatch.setattr(upstream_health, "vary_pause", vary_pause)
    thread_count = threading.active_count()
    setup.health.start(10)
    assert third_pause.wait(10)
    setup.health.stop()

    assert threading.active_count() == thread_count
    assert intervals == [10, 10, 10]
    assert sorted(setup.observer.results) == [("a", True), ("a", True), ("b", True)]
    assert [*setup.health._histories] == ["a"]


def test_pauses_between_checks_vary() -> None:
    pauses = [vary_pause(10) for _ in range(100)]

    assert all(9 <= pause <= 11 for pause in pauses)
    assert len(set(pauses)) > 50


def test_checks_that_did_not_start_can_be_stopped() -> None:
    HealthSetup().health.stop()


@check_each("has_list", [True, False])
def test_unlisted_model_is_probed_until_it_answers(has_list: bool) -> None:
    def list_other_models(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200 if has_list else 404, json={"data": [{"id": "other"}]})

    unknown = ProbeResult(True, True, False, "model", "no such model", checked_at=time.time())
    probe_results = [
        unknown,
        ProbeResult(True, None, None, "request", "too short"),
        ProbeResult(True, True, True),
    ]
    target = HealthTarget(
        "a", connect_upstream(list_other_models), "m", lambda: probe_results.pop(0)
    )
    monitor = HealthMonitor(lambda: [target], RequestObserver())

    results = [monitor.check_target(target, 0.0) for _ in range(4)]

    assert [(check.is_model_known, check.fault) for check in results] == [
        (False, "model"), (None, None), (True, None), (True, None)
    ]  # fmt: skip
    assert probe_results == []


def test_listed_or_embedding_model_is_not_probed() -> None:
    def fail_probe() -> ProbeResult:
        raise AssertionError

    target = HealthTarget("a", connect_upstream(answer_normally), "m", fail_probe)
    assert (
        HealthMonitor(lambda: [target], RequestObserver()).check_target(target, 0.0).is_model_known
        is True
    )
    target = HealthTarget("a", connect_upstream(refuse_connection), "m", fail_probe)
    assert (
        HealthMonitor(lambda: [target], RequestObserver()).check_target(target, 0.0).fault == "host"
    )
    assert RegisteredModel("e:latest", "m", "https://h.test").can_answer
    assert RegisteredModel("e:latest", "m", "https://h.test", capabilities=("tools",)).can_answer
    assert not RegisteredModel(
        "e:latest", "m", "https://h.test", capabilities=("embedding",)
    ).can_answer


def test_model_is_probed_once_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(upstream_health.time, "monotonic", lambda: now[0])
    probe_times: list[float] = []

    def record_probe() -> ProbeResult:
        probe_times.append(now[0])
        return ProbeResult(True, True, None, "timeout", "it took too long")

    def list_none(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404)

    target = HealthTarget("a", connect_upstream(list_none), "m", record_probe)
    monitor = HealthMonitor(lambda: [target], RequestObserver(), 60.0)

    faults = []
    for now[0] in (1000.0, 1005.0, 1059.0, 1060.0, 1061.0):
        faults.append(monitor.check_target(target, 0.0).fault)

    assert probe_times == [1000.0, 1060.0]
    assert faults == ["timeout"] * 5
    monitor.check_target(
        target._replace(upstream=connect_upstream(list_none)), 0.0
    )  # the model was registered again
    assert probe_times[2:] == [1061.0]
