"""Limits that two workers share through a Redis, also while it is down."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.live.conftest import make_settings
from tests.live.redis import needs_redis, run_redis, run_redis_process
from tests.live.server import GUNICORN, Server, find_free_port, list_workers, run_forwarder
from tests.live.talk import LIMIT, ClientAnswer, make_body, send_request
from tests.live.test_metrics import read_metrics, wait_until_counted

TWO = (*GUNICORN, "-w", "2")
KEYS = ("sk-client-a", "sk-client-b", "sk-client-c", "sk-client-d")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_redis(find_free_port(), tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="module")
def two_workers(
    storage: str, upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A forwarder of two workers with limits."""
    settings = make_settings(
        upstream,
        FORWARDER_API_KEYS=",".join(KEYS),
        FORWARDER_RATE_LIMIT_REQUESTS="6/hour",
        FORWARDER_RATE_LIMIT_TOKENS="100/hour",
        FORWARDER_RATE_LIMIT_STORAGE=storage,
        FORWARDER_METRICS_KEY="sk-client",
    )
    with run_forwarder(settings, tmp_path_factory.mktemp("two"), TWO) as server:
        yield server


def send_chat_request(
    server: Server, key: str, stream: bool = False, timeout: float = LIMIT
) -> ClientAnswer:
    body = make_body("chat", stream=stream)
    return send_request(server, "chat", body, timeout=timeout, Authorization=f"Bearer {key}")


def by_each_worker(server: Server, key: str) -> list[ClientAnswer]:
    """An answer of one worker while the other sleeps, and the other way round."""
    answers = []
    for asleep in list_workers(server):
        os.kill(asleep, signal.SIGSTOP)
        try:
            answers.append(send_chat_request(server, key))
        finally:
            os.kill(asleep, signal.SIGCONT)
    return answers


@needs_redis
def test_workers_count_requests_together(two_workers: Server) -> None:
    first, second = by_each_worker(two_workers, KEYS[0])

    assert wait_until_counted(two_workers, lambda metrics: _sum_tokens(metrics) >= 60)
    remaining = [a.headers["x-ratelimit-remaining-requests"] for a in (first, second)]
    assert remaining == ["5", "4"]
    assert first.headers["x-ratelimit-limit-requests"] == "6"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")


@needs_redis
def test_workers_count_tokens_together_and_refuse_from_then_on(two_workers: Server) -> None:
    """An answer of the scripted upstream costs 30."""
    remaining = []
    for stream in (False, True, False, True):
        expected_tokens = _sum_tokens(read_metrics(two_workers)) + 30
        response = send_chat_request(two_workers, KEYS[1], stream)
        assert response.ending == "completed"
        remaining.append(response.headers["x-ratelimit-remaining-tokens"])
        assert wait_until_counted(
            two_workers, lambda metrics, total=expected_tokens: _sum_tokens(metrics) == total
        )
    assert remaining == ["100", "70", "40", "10"]

    refusals = by_each_worker(two_workers, KEYS[1])

    for response in refusals:
        assert response.status == 429
        assert (response.error["type"], response.error["code"]) == ("tokens", "rate_limit_exceeded")
        assert 0 < int(response.headers["retry-after"]) <= 3600
        assert response.headers["x-ratelimit-remaining-tokens"] == "0"
    assert send_chat_request(two_workers, KEYS[2]).status == 200


def _sum_tokens(metrics: dict[str, dict[tuple[str, ...], float]]) -> float:
    return sum(
        sum(metrics.get(f"{direction}_tokens_total", {}).values())
        for direction in ("input", "output")
    )


@needs_redis
def test_concurrent_requests_do_not_exceed_the_limit(
    storage: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    settings = make_settings(
        upstream, FORWARDER_RATE_LIMIT_REQUESTS="7/hour", FORWARDER_RATE_LIMIT_STORAGE=storage
    )
    with run_forwarder(settings, tmp_path, TWO) as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send_chat_request(server, "none"), range(24)))

    assert sorted(answer.status for answer in answers) == [200] * 7 + [429] * 17


@needs_redis
@pytest.mark.parametrize("policy", ["allow", "refuse"])
def test_unreachable_redis_does_not_delay_requests(
    policy: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    port = find_free_port()
    settings = make_settings(
        upstream,
        FORWARDER_RATE_LIMIT_REQUESTS="3/hour",
        FORWARDER_RATE_LIMIT_STORAGE=f"redis://:a-password@127.0.0.1:{port}/0",
        FORWARDER_RATE_LIMIT_WHEN_DOWN=policy,
    )
    with run_forwarder(settings, tmp_path) as server:
        statuses = [send_chat_request(server, "none").status for _ in range(5)]
        log = server.log

    assert statuses == [200 if policy == "allow" else 503] * 5
    assert log.count("does not answer") == 1
    assert "a-password" not in log


def _await_limited_answer(server: Server) -> ClientAnswer:
    """The first answer with limit headers; after a failure the storage is not used for a while."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        response = send_chat_request(server, "none")
        if "x-ratelimit-remaining-requests" in response.headers:
            return response
        time.sleep(0.2)
    raise AssertionError("nobody is limited any more")


@needs_redis
def test_rate_limit_returns_when_redis_does(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    port = find_free_port()
    settings = make_settings(
        upstream,
        FORWARDER_RATE_LIMIT_REQUESTS="3/hour",
        FORWARDER_RATE_LIMIT_STORAGE=f"redis://127.0.0.1:{port}/0",
    )
    with run_forwarder(settings, tmp_path) as server:
        with run_redis(port, tmp_path):
            before = send_chat_request(server, "none")
        meanwhile = send_chat_request(server, "none")
        with run_redis(port, tmp_path):
            after = _await_limited_answer(server)

    assert after.status == 200
    assert before.headers["x-ratelimit-remaining-requests"] == "2"
    assert meanwhile.status == 200
    assert "x-ratelimit-remaining-requests" not in meanwhile.headers


@needs_redis
def test_limit_holds_in_a_burst_of_more_requests_than_connections(
    storage: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    settings = make_settings(
        upstream,
        FORWARDER_API_KEYS="sk-burst",
        FORWARDER_RATE_LIMIT_REQUESTS="100/hour",
        FORWARDER_RATE_LIMIT_STORAGE=storage,
        FORWARDER_RATE_LIMIT_TIMEOUT="60",  # a busy test machine is not a Redis that hangs
        FORWARDER_QUEUE_TIMEOUT="60",
    )
    with run_forwarder(settings, tmp_path) as server, ThreadPoolExecutor(300) as pool:
        answers = list(
            pool.map(lambda _: send_chat_request(server, "sk-burst", timeout=60), range(300))
        )
        log = server.log

    assert Counter(answer.status for answer in answers) == {200: 100, 429: 200}
    assert all("x-ratelimit-remaining-requests" in answer.headers for answer in answers)
    assert "does not answer" not in log


@needs_redis
@pytest.mark.parametrize("policy", ["allow", "refuse"])
def test_hanging_redis_does_not_delay_requests(
    policy: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The process is stopped: its connections stay open, and say nothing."""
    port = find_free_port()
    settings = make_settings(
        upstream,
        FORWARDER_RATE_LIMIT_REQUESTS="1000/hour",
        FORWARDER_RATE_LIMIT_TOKENS="1000000/hour",
        FORWARDER_RATE_LIMIT_STORAGE=f"redis://127.0.0.1:{port}/0",
        FORWARDER_RATE_LIMIT_WHEN_DOWN=policy,
    )
    with run_redis_process(port, tmp_path) as redis, run_forwarder(settings, tmp_path) as server:
        assert send_chat_request(server, "none").status == 200
        redis.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        hanging = [send_chat_request(server, "none") for _ in range(40)]
        seconds = time.monotonic() - started
        redis.send_signal(signal.SIGCONT)
        after = _await_limited_answer(server)
        log = server.log

    # If each request waited for a time-out, the burst would take far longer.
    assert seconds < 10
    assert {answer.status for answer in hanging} == {200 if policy == "allow" else 503}
    assert after.status == 200
    assert log.count("does not answer") == 1
    assert log.count("answers again") == 1
