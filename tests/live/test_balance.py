"""Several keys and hosts behind two workers, which share cooldowns through a Redis."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forwarder.upstream.resilience.shared_state import EXCHANGE_SECONDS, RedisStorage
from tests.fake_provider import ScriptedUpstream, faults
from tests.helpers.loopback import find_unused_port
from tests.live.redis import needs_redis, run_redis, run_redis_process
from tests.live.server import GUNICORN, Server, find_free_port, list_workers, run_forwarder
from tests.live.talk import ClientAnswer, http, make_body, send_request

TWO = (*GUNICORN, "-w", "2")
KEYS = ("sk-key-one", "sk-key-two")


@pytest.fixture
def provider() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(keys=set(KEYS)) as scripted:
        yield scripted


def configure(provider: ScriptedUpstream, **overrides: str) -> dict[str, str]:
    return {"CHAT_BASE_URL": provider.url, "CHAT_API_KEY": ",".join(KEYS), **overrides}


def count_keys(provider: ScriptedUpstream) -> Counter[str]:
    return Counter(
        request.headers["authorization"].removeprefix("Bearer ")
        for request in provider.requests
        if request.path.endswith("/chat/completions")
    )


def send(server: Server, **parameters: object) -> ClientAnswer:
    return send_request(server, "chat", make_body("chat", model="chat/m", **parameters))


@contextlib.contextmanager
def suspend_process(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def send_to_each_worker(server: Server, count: int) -> list[ClientAnswer]:
    answers = []
    for other in list_workers(server):
        with suspend_process(other):
            answers += [send(server) for _ in range(count)]
    return answers


def find_cooling_keys(server: Server) -> list[int]:
    """The numbers of the keys that are cooling down in the worker that answers."""
    endpoints = http.get(f"{server.url}/ready?verbose").json()["upstreams"]["chat"]["resilience"][
        "endpoints"
    ]
    return [each["key"] for each in endpoints if "cooldowns" in each]


def await_cooling_keys(server: Server, expected: int, seconds: float = 5) -> None:
    """Wait until this many keys are cooling down in both workers."""
    time.sleep(2 * EXCHANGE_SECONDS)  # a stopped worker publishes nothing
    deadline = time.monotonic() + seconds
    for other in list_workers(server):
        with suspend_process(other):
            while len(find_cooling_keys(server)) != expected:
                assert time.monotonic() < deadline
                time.sleep(0.05)


@needs_redis
def test_workers_share_the_cooldown_of_a_key(provider: ScriptedUpstream, tmp_path: Path) -> None:
    with (
        run_redis(find_free_port(), tmp_path) as storage,
        run_forwarder(
            configure(provider, FORWARDER_RATE_LIMIT_STORAGE=storage), tmp_path, TWO
        ) as server,
    ):
        provider.script(faults.refuse_with_status(429, retry_after=60))
        assert send(server).status == 200
        await_cooling_keys(server, 1)
        [cooling_key] = find_cooling_keys(server)
        provider.requests.clear()

        answers = send_to_each_worker(server, 5)

        assert {answer.status for answer in answers} == {200}
        assert count_keys(provider) == {KEYS[2 - cooling_key]: 10}


@needs_redis
def test_workers_repeat_the_refusal_that_another_worker_got(
    provider: ScriptedUpstream, tmp_path: Path
) -> None:
    with (
        run_redis(find_free_port(), tmp_path) as storage,
        run_forwarder(
            configure(provider, FORWARDER_RATE_LIMIT_STORAGE=storage), tmp_path, TWO
        ) as server,
    ):
        provider.script(
            faults.refuse_with_status(429, retry_after=90),
            faults.refuse_with_status(429, retry_after=60),
        )
        assert send(server).status == 429
        await_cooling_keys(server, 2)
        provider.requests.clear()

        answers = send_to_each_worker(server, 2)

        assert [answer.status for answer in answers] == [429] * 4
        assert all(50 < int(answer.headers["retry-after"]) <= 60 for answer in answers)
        assert count_keys(provider) == {}


@needs_redis
def test_requests_do_not_wait_for_an_unavailable_redis(
    provider: ScriptedUpstream, tmp_path: Path
) -> None:
    with run_redis_process(port := find_free_port(), tmp_path) as redis:
        settings = configure(provider, FORWARDER_RATE_LIMIT_STORAGE=f"redis://127.0.0.1:{port}/0")
        with run_forwarder(settings, tmp_path, TWO) as server:
            provider.script(faults.refuse_with_status(429, retry_after=60))
            assert send(server).status == 200
            await_cooling_keys(server, 1)
            redis.send_signal(signal.SIGSTOP)
            started_at = time.monotonic()
            hanging = [send(server) for _ in range(10)]
            seconds = time.monotonic() - started_at
            provider.script(faults.refuse_with_status(429, retry_after=60))
            refusal = send(server)
            redis.kill()
            redis.wait(10)
            statuses = [send(server).status for _ in range(4)]

            assert {answer.status for answer in hanging} == {200}
            assert seconds < 5  # a request that waited for Redis would take a second
            assert refusal.status == 429
            assert set(statuses) <= {200, 429}  # the other worker does not know the last refusal


@needs_redis
def test_redis_removes_only_entries_that_are_unchanged(tmp_path: Path) -> None:
    with run_redis(find_free_port(), tmp_path) as url:
        storage = RedisStorage(url)
        storage.exchange({"cooldown:a": b"old", "cooldown:b": b"old"}, {})
        storage.exchange({"cooldown:b": b"new"}, {})

        snapshot = storage.exchange(
            {}, {"cooldown:a": b"old", "cooldown:b": b"old", "cooldown:c": b"old"}
        )

        assert snapshot.entries == {"cooldown:b": b"new"}


def test_keys_share_concurrent_requests(provider: ScriptedUpstream, tmp_path: Path) -> None:
    with (
        run_forwarder(configure(provider), tmp_path, GUNICORN) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda _: send(server, stream=True), range(16)))

    assert {answer.ending for answer in answers} == {"completed"}
    requests_per_key = count_keys(provider)
    assert set(requests_per_key) == set(KEYS)
    assert sum(requests_per_key.values()) == 16


def test_host_that_refuses_connections_is_replaced(
    provider: ScriptedUpstream, tmp_path: Path
) -> None:
    urls = f"http://127.0.0.1:{find_unused_port()}/v1,{provider.url}"
    with run_forwarder(configure(provider, CHAT_BASE_URL=urls), tmp_path, GUNICORN) as server:
        answers = [send(server, stream=stream) for stream in (False, True) * 10]
        state = http.get(f"{server.url}/ready?verbose").json()["upstreams"]["chat"]

    assert {answer.ending for answer in answers} == {"completed"}
    assert sum(count_keys(provider).values()) == 20
    assert state["reachable"] is True
    assert {each["host"] for each in state["resilience"]["endpoints"] if "failures" in each} == {1}
