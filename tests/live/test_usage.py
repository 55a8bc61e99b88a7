"""The usage of two workers, beside what the provider counted itself."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from forwarder.storage.db.open import open_database
from forwarder.storage.db.usage import UsageQuery
from forwarder.storage.repositories.usage import UsageRepository
from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.fake_provider.answers import Ask, Json, Protocol, Usage
from tests.fake_provider.faults import Scripted
from tests.fake_provider.wire import Reply, Stream
from tests.live.conftest import KEY, settings
from tests.live.server import GUNICORN, Server, running
from tests.live.talk import PAIRINGS, PATHS, asking

TWO = (*GUNICORN, "-w", "2")
CLIENTS = {"alice": "sk-alice", "bob": "sk-bob"}
ADMIN = {"Authorization": "Bearer sk-admin"}
KINDS = ("answer", "answer", "answer", "stalled", "refused", "failed")
REQUESTS = 360
COUNTS = (
    "requests", "errors", "cancelled", "input_tokens", "cached_tokens", "output_tokens",
    "reasoning_tokens",
)  # fmt: skip

Counts = Counter[str]


class CountingUpstream(ScriptedUpstream):
    """Answers as a request's prompt (``kind serial client``) asks, and counts by client."""

    def __init__(self) -> None:
        super().__init__(keys={KEY})
        self.counts: dict[str, Counts] = {client: Counter() for client in CLIENTS}

    def _say(self, protocol: Protocol, body: Json) -> Reply:
        match = re.search(r"(\w+) (\d+) (\w+)!", json.dumps(body))
        assert match is not None, body
        kind, serial, client = match[1], int(match[2]), match[3]
        usage = Usage(100 + serial, 10 + serial % 7, serial % 50, serial % 5)
        answer = Answer(text="one two three four", usage=usage, pieces=4)
        answers: dict[str, Callable[[], Scripted]] = {
            "answer": lambda: answer,
            "stalled": lambda: faults.stalled(answer, after=3 if protocol == "chat" else 6),
            "refused": lambda: faults.status(500),
            "failed": lambda: (
                faults.error_event(answer)
                if protocol == "chat"
                else Answer(text="one two", finish="failed", usage=None)
            ),
        }
        with self._lock:
            self._serial += 1
            ask = Ask(protocol, body, self._serial)
            counts = self.counts[client]
            counts["requests"] += 1
            counts["cancelled"] += kind == "stalled"
            counts["errors"] += kind in ("refused", "failed")
            if kind == "answer":
                counts["input_tokens"] += usage.input
                counts["cached_tokens"] += usage.cached
                counts["output_tokens"] += usage.output
                counts["reasoning_tokens"] += usage.reasoning
        said = answers[kind]()
        stream = Stream(said) if isinstance(said, Answer) else said
        return stream.reply(ask)


@pytest.fixture
def provider() -> Iterator[CountingUpstream]:
    with CountingUpstream() as upstream:
        yield upstream


def start(provider: ScriptedUpstream, directory: Path, database: str, interval: str) -> Any:
    environment = settings(
        provider,
        FORWARDER_API_KEYS=",".join(f"{name}:{key}" for name, key in CLIENTS.items()),
        FORWARDER_ADMIN_KEYS="sk-admin",
        FORWARDER_DATABASE_URL=database,
        FORWARDER_SECRET_KEY="a secret for the test, long enough",
        FORWARDER_USAGE_INTERVAL=interval,
        FORWARDER_PRICES="*=1/0/0",
    )
    return running(environment, directory, TWO)


def send(server: Server, kind: str, serial: int) -> None:
    """Send one request of a mixture, and leave in the middle if its answer stalls."""
    chance = random.Random(serial)
    client = chance.choice(list(CLIENTS))
    protocol, over = chance.choice(PAIRINGS)
    streamed = chance.random() < 0.7
    body = asking(protocol, f"{kind} {serial} {client}!", f"{over}/m", stream=streamed)
    headers = {"Authorization": f"Bearer {CLIENTS[client]}"}
    url = f"{server.v1}{PATHS[protocol]}"
    with httpx2.Client(timeout=30, trust_env=False) as http:
        if kind != "stalled":
            http.post(url, json=body, headers=headers)
        elif streamed:
            with http.stream("POST", url, json=body, headers=headers) as got:
                next(got.iter_bytes())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                http.post(url, json=body, headers=headers, timeout=0.5)


def send_mixture(server: Server, kinds: tuple[str, ...], count: int) -> None:
    with ThreadPoolExecutor(12) as threads:
        futures = [threads.submit(send, server, kinds[i % len(kinds)], i) for i in range(count)]
        for future in futures:
            future.result()


def read(server: Server, query: str, headers: dict[str, str] = ADMIN) -> Json:
    got = httpx2.get(f"{server.url}/forwarder/usage?{query}", headers=headers, trust_env=False)
    assert got.status_code == 200, got.text
    report: Json = got.json()
    return report


def select_counts(line: Json) -> dict[str, int]:
    return {name: line[name] for name in COUNTS}


def wait_for_requests(server: Server, count: int) -> None:
    """Wait until all workers have added what they counted."""
    deadline = time.monotonic() + 30
    while read(server, "group=")["total"]["requests"] < count:
        assert time.monotonic() < deadline, read(server, "group=")
        time.sleep(0.1)


@pytest.mark.slow
def test_usage_of_two_workers_is_what_the_provider_counted(
    provider: CountingUpstream, database: str, tmp_path: Path
) -> None:
    with start(provider, tmp_path, database, "0.1") as server:
        send_mixture(server, KINDS, REQUESTS)
        wait_for_requests(server, REQUESTS)
        time.sleep(0.5)  # nothing counts twice

        found = read(server, "group=client")
        assert found["shared"] is True
        assert {line["client"]: select_counts(line) for line in found["data"]} == {
            client: {name: counts[name] for name in COUNTS}
            for client, counts in provider.counts.items()
        }
        assert found["total"]["cost"] == pytest.approx(
            sum(c["input_tokens"] - c["cached_tokens"] for c in provider.counts.values()) / 1e6
        )
        models = read(server, "group=model,upstream")["data"]
        assert {(m["model"], m["upstream"]) for m in models} == {
            ("chat/m", "chat"),
            ("responses/m", "responses"),
        }
        own = read(server, "group=client", {"Authorization": f"Bearer {CLIENTS['bob']}"})
        assert [line["client"] for line in own["data"]] == ["bob"]
        assert own["total"]["requests"] == provider.counts["bob"]["requests"]


@pytest.mark.slow
def test_workers_that_stop_store_what_they_counted(
    provider: CountingUpstream, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    with start(provider, tmp_path, url, "86400") as server:
        leaving = threading.Thread(target=send, args=(server, "stalled", 1))
        leaving.start()
        send_mixture(server, ("answer",), 40)
        leaving.join()
    database = open_database(url)
    assert database is not None
    [(_, counts)] = UsageRepository(database).sum_counts(UsageQuery(0, 2**40, ()), 9)
    database.close()

    assert (counts.requests, counts.cancelled, counts.errors) == (41, 1, 0)
    assert counts.input_tokens == sum(c["input_tokens"] for c in provider.counts.values())
