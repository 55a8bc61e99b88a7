"""Client keys made at run time, over two workers that share a database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from simple_websocket import Client

from forwarder.client_keys.budgets import REFRESH_SECONDS
from tests.fake_provider import Answer, ScriptedUpstream
from tests.fake_provider.answers import Json, ModelRequest, Protocol, Usage
from tests.fake_provider.wire import Reply, Stream
from tests.helpers.waiting import wait_until
from tests.live.conftest import KEY, make_settings
from tests.live.postgres import create_database, needs_postgres
from tests.live.server import ROOT, Server, run_forwarder

pytestmark = pytest.mark.slow

ADMIN = {"Authorization": "Bearer sk-admin"}
CHAT = {"model": "chat/m", "messages": [{"role": "user", "content": "Hi"}]}
TOKENS = 10
BUDGET = 400
USAGE_SECONDS = 0.5


class CountedUpstream(ScriptedUpstream):
    """Answers every request with `TOKENS` tokens."""

    def _make_answer(self, protocol: Protocol, body: Json) -> Reply:
        with self._lock:
            self._serial += 1
            request = ModelRequest(protocol, body, self._serial)
        return Stream(Answer(text="one two", usage=Usage(TOKENS - 2, 2))).reply(request)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind, for one test."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    return create_database(request.getfixturevalue("postgres"))


@pytest.fixture
def workers(tmp_path: Path, database: str) -> Iterator[list[Server]]:
    """Two processes on one database, so that a test knows which one it asks."""
    with CountedUpstream(keys={KEY}) as upstream, ExitStack() as stack:
        environment = make_settings(
            upstream,
            FORWARDER_ADMIN_KEYS="sk-admin",
            FORWARDER_DATABASE_URL=database,
            FORWARDER_SECRET_KEY="a secret for the test, long enough",
            FORWARDER_USAGE_INTERVAL=str(USAGE_SECONDS),
        )
        yield [stack.enter_context(run_forwarder(environment, tmp_path)) for _ in range(2)]


def make_key_header(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def send_request(server: Server, key: str, http: Any = httpx2, **body: Any) -> Any:
    url = f"{server.v1}/chat/completions"
    options = {} if http is not httpx2 else {"trust_env": False, "timeout": 30}
    return http.post(url, json={**CHAT, **body}, headers=make_key_header(key), **options)


def administer(server: Server, method: str, path: str = "", body: Any = None) -> Any:
    url = f"{server.url}/forwarder/keys{path}"
    answer = httpx2.request(method, url, json=body, headers=ADMIN, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for_status(server: Server, key: str, status: int) -> float:
    """Return the seconds until a worker answers with ``status``."""
    start = time.monotonic()
    while send_request(server, key).status_code != status:
        assert time.monotonic() - start < 5, f"no {status}"
    return time.monotonic() - start


def test_keys_reach_the_other_worker_at_once(workers: list[Server]) -> None:
    one, two = workers
    assert [send_request(each, "").status_code for each in workers] == [200, 200]
    client_key = administer(one, "POST", body={"name": "alice", "models": "chat/*"})
    # When the request has been answered, no worker uses the previous keys.
    assert send_request(two, client_key["key"]).status_code == 200
    assert [send_request(each, "").status_code for each in workers] == [401, 401]
    assert (
        send_request(two, client_key["key"], model="responses/m").json()["error"]["code"]
        == "model_not_found"
    )

    body = {"model": "chat/m", "input": "Hi", "store": True}
    response_id = httpx2.post(f"{one.v1}/responses", json=body, headers=make_key_header(client_key["key"]),
                         trust_env=False).json()["id"]  # fmt: skip
    rotated = administer(two, "POST", "/alice/rotate", {"grace": "1m"})["key"]
    assert [send_request(one, key).status_code for key in (client_key["key"], rotated)] == [
        200,
        200,
    ]
    last_key = administer(two, "POST", "/alice/rotate")["key"]
    assert [
        send_request(one, key).status_code for key in (client_key["key"], rotated, last_key)
    ] == [401, 401, 200]
    url = f"{one.v1}/responses/{response_id}"
    assert httpx2.get(url, headers=make_key_header(last_key), trust_env=False).status_code == 200

    administer(two, "DELETE", "/alice")
    refusal = send_request(one, last_key)
    assert refusal.status_code == 401
    assert "revoked" in refusal.json()["error"]["message"]
    assert [send_request(each, "").status_code for each in workers] == [401, 401], (
        "requests without a key are refused after the last key is revoked"
    )


def test_turns_of_a_websocket_need_the_key_each_time(workers: list[Server]) -> None:
    one, two = workers
    key = administer(one, "POST", body={"name": "alice", "requests_per_minute": 2})["key"]
    socket = Client(one.v1.replace("http", "ws") + "/responses", headers=make_key_header(key))

    def take_turn() -> Any:
        socket.send(json.dumps({"type": "response.create", "model": "chat/m", "input": "Hi"}))
        while True:
            event = json.loads(socket.receive(timeout=30))
            if event["type"] in ("response.completed", "error"):
                return event

    assert [take_turn()["type"] for _ in range(2)] == ["response.completed"] * 2
    limit_error = take_turn()
    assert (limit_error["status"], limit_error["error"]["code"]) == (429, "rate_limit_exceeded")
    administer(two, "PATCH", "/alice", {"requests_per_minute": None})
    assert take_turn()["type"] == "response.completed"
    administer(two, "DELETE", "/alice")
    key_error = take_turn()
    assert (key_error["status"], key_error["error"]["code"]) == (401, "invalid_api_key")
    socket.close()


def test_command_makes_keys_for_running_workers(
    workers: list[Server], tmp_path: Path, database: str
) -> None:
    def run(*arguments: str) -> str:
        environment = {
            "PATH": "",
            "FORWARDER_DOTENV": "",
            "FORWARDER_DATABASE_URL": database,
            "FORWARDER_SECRET_KEY": "a secret for the test, long enough",
        }
        command = [sys.executable, "-m", "forwarder", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    key = run("keys", "create", "alice", "--budget", f"{TOKENS} tokens/day")
    assert [send_request(workers[0], key).status_code for _ in range(2)] == [200, 429]
    assert json.loads(run("keys", "show", "alice"))["last_used"] is None, "stored within a minute"
    assert run("keys", "revoke", "alice") == "revoked alice"
    seconds = [wait_for_status(worker, key, 401) for worker in workers]
    assert max(seconds) < 1


def test_budget_of_two_workers_is_exceeded_by_some_seconds_at_most(workers: list[Server]) -> None:
    """The documented bound: all workers' answers in the seconds of a cache and an interval."""
    key = administer(workers[0], "POST", body={"name": "alice", "budget": f"{BUDGET} tokens/day"})
    response: list[float] = []
    is_over = threading.Event()

    def send_until_refused(server: Server) -> None:
        with httpx2.Client(trust_env=False, timeout=30) as http:
            while not is_over.is_set():
                answer = send_request(server, key["key"], http)
                if answer.status_code == 200:
                    response.append(time.monotonic())
                else:
                    assert answer.json()["error"]["code"] == "insufficient_quota"
                    return
                time.sleep(0.02)

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(send_until_refused, workers[i % 2]) for i in range(8)]
        threading.Timer(60, is_over.set).start()
        for future in futures:
            future.result()

    response.sort()
    used_tokens = len(response) * TOKENS
    assert used_tokens >= BUDGET
    wait_until(lambda: administer(workers[0], "GET", "/alice")["budget_used"] == used_tokens)
    exhausted = response[BUDGET // TOKENS - 1]
    slack = 1.0  # of a busy machine
    assert response[-1] - exhausted < REFRESH_SECONDS + USAGE_SECONDS + slack
    assert [send_request(worker, key["key"]).status_code for worker in workers] == [429, 429]
