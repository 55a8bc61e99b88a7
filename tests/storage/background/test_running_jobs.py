"""The memory limit of events that cannot be stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from forwarder.core.body_memory import measure_heap
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.types import Batch
from forwarder.storage.background import BackgroundLimits, BackgroundRunner
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import background_leases as work
from forwarder.storage.db.database import SqliteDatabase
from tests.storage.background.helpers import (
    ANSWER,
    Outage,
    WriteFailures,
    answer_after,
    make_event,
    new_runner,
    read_events,
    start_job,
    wait_until,
)

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


@with_short_intervals
@pytest.mark.parametrize(
    "limits", [BackgroundLimits(max_unsaved_seconds=0), BackgroundLimits(max_unsaved_bytes=10)]
)
def test_response_over_the_limits_is_dropped_and_its_lease_expires(
    limits: BackgroundLimits, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database), limits)
    outage = Outage(monkeypatch)
    start_job(background, iter(ANSWER))
    wait_until(lambda: outage.tries and not background._jobs)

    assert background._jobs.unsaved_bytes == 0
    renewed: list[list[str]] = []
    monkeypatch.setattr(work, "renew_leases", lambda c, worker, names: renewed.append(names))
    monkeypatch.setattr("forwarder.storage.background.progress.LEASE_RENEW_SECONDS", 0.0)
    go = threading.Event()
    running_id = start_job(background, answer_after(go))
    wait_until(lambda: [running_id] in renewed)
    go.set()
    assert {response_id for names in renewed for response_id in names} == {running_id}


@with_short_intervals
def test_running_jobs_count_towards_the_unsaved_limit(
    database: SqliteDatabase, failures: WriteFailures, caplog: pytest.LogCaptureFixture
) -> None:
    background = new_runner(database, BackgroundLimits(max_unsaved_bytes=20_000))
    go = threading.Event()

    def yield_endlessly() -> Iterator[Batch]:
        yield ANSWER[0]
        go.wait(10)
        while True:
            time.sleep(0.001)
            yield [make_event("output_text.delta", delta="x")]

    name = start_job(background, yield_endlessly())
    waiting_id = start_job(background, answer_after(go, [*ANSWER[:1], *[[]] * 10, *ANSWER[1:]]))
    wait_until(lambda: background.read_response("o", name).status == "in_progress")
    job = background._jobs["o", name]
    failures.before = True
    go.set()
    wait_until(lambda: job.is_dropped)
    failures.before = False
    wait_until(lambda: not background._jobs)

    assert {"event": "background_response_lost", "response": name} in [
        record.msg for record in caplog.records
    ]
    assert background._jobs.unsaved_bytes == 0
    stored = background.read_response("o", name)
    assert stored.is_running  # until its lease expires
    assert read_events(background, waiting_id)[-1]["type"] == "response.completed"


@with_short_intervals
def test_unsaved_bytes_are_the_heap_size_of_events(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    batches = [
        ANSWER[0],
        *([make_event("output_text.delta", delta="x")] for _ in range(500)),
        ANSWER[2],
    ]
    name = start_job(background, iter(batches))
    wait_until(lambda: outage.tries > 2)
    job = background._jobs["o", name]

    assert (
        background._jobs.unsaved_bytes
        == job.unsaved_bytes
        == sum(map(measure_heap, job.pending_events))
        > 100_000
    )
    outage.lasts = False
    wait_until(lambda: not background._jobs)
    assert background._jobs.unsaved_bytes == 0
