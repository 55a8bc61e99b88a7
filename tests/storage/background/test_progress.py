"""Storing the events of running jobs, also while the database fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from forwarder.core.types import Batch
from forwarder.storage.background import BackgroundRunner
from forwarder.storage.db import background_leases as work
from forwarder.storage.db import responses
from forwarder.storage.db.database import SqliteDatabase
from tests.storage.background.helpers import (
    ANSWER,
    WriteFailures,
    make_event,
    read_events,
    start_job,
    wait_until,
)

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


def test_unserializable_job_does_not_affect_others(
    background: BackgroundRunner,
) -> None:
    go = threading.Event()

    def yield_invalid_event() -> Iterator[Batch]:
        yield [*ANSWER[0], make_event("output_text.delta", delta=object())]  # not JSON-serializable
        go.wait(10)

    def yield_answer() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    start_job(background, yield_invalid_event())
    response_id = start_job(background, yield_answer())
    for batch in background.stream_events(
        "o", response_id, -1, 60, lambda seconds: not time.sleep(0.01)
    ):
        if batch and batch[-1]["type"] == "response.output_text.delta":
            go.set()
    assert go.is_set()
    assert background.read_response("o", response_id).status == "completed"


@with_short_intervals
def test_events_are_stored_once_when_their_commit_was_not_acknowledged(
    background: BackgroundRunner, database: SqliteDatabase, failures: WriteFailures
) -> None:
    steps = [threading.Event() for _ in range(3)]

    def answer() -> Iterator[Batch]:
        yield ANSWER[0]
        for step in steps[:2]:
            yield ANSWER[1]
            step.wait(10)
        yield ANSWER[2]

    name = start_job(background, answer())
    failures.after = True
    wait_until(lambda: len(database.read(read_log(background, name))) == 4)
    wait_until(lambda: len(background._jobs["o", name].pending_events) == 2)
    steps[0].set()  # adds a pending event
    wait_until(lambda: len(background._jobs["o", name].pending_events) == 3)
    time.sleep(0.2)
    steps[1].set()
    wait_until(lambda: not database.read(lambda c: work.is_running(c, "o", name)))
    failures.after = False
    wait_until(lambda: not background._jobs)

    assert background.read_response("o", name).status == "completed"
    events = read_events(background, name)
    assert [e["sequence_number"] for e in events] == list(range(6))
    assert [e.get("delta") for e in events] == [None, None, None, "x", "x", None]
    size = database.read(lambda c: c.scalar(sa.text("SELECT sum(length(data)) FROM events")))
    assert size is not None


def read_log(background: BackgroundRunner, name: str) -> Callable[[sa.Connection], Batch]:
    stored = background.read_response("o", name)
    return lambda connection: responses.read_events_after(connection, "o", stored, -1)
