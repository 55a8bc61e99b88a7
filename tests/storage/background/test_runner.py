"""Background responses as clients see them: read, stream, cancel, delete."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from forwarder.core.errors import (
    InvalidRequest,
    NotFound,
    StoreUnavailable,
)
from forwarder.core.types import Batch
from forwarder.storage.background import BackgroundRunner
from forwarder.storage.db import background_leases as work
from forwarder.storage.db import responses
from forwarder.storage.db.database import SqliteDatabase
from tests.storage.background.helpers import (
    ANSWER,
    read_events,
    start_job,
    store_lost_response,
)

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


def test_running_response_can_be_streamed(background: BackgroundRunner) -> None:
    go = threading.Event()

    def yield_slowly() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    response_id, types = start_job(background, yield_slowly()), []
    for batch in background.stream_events(
        "o", response_id, -1, 60, lambda seconds: not time.sleep(0.01)
    ):
        types += [event["type"] for event in batch]
        if types[-1] == "response.output_text.delta":
            assert background.read_response("o", response_id).status == "in_progress"
            go.set()
    assert types[-1] == "response.completed"


def test_only_own_background_responses_can_be_cancelled(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    response_id = start_job(background, iter(ANSWER))
    for owner, other in (("p", response_id), ("o", "resp_x")):
        with pytest.raises(NotFound):
            background.cancel_response(owner, other)
    stored = responses.StoredResponse("plain", "completed", [], {"id": "plain"}, 1.0)
    database.write(lambda c: responses.add(c, "o", stored, []))
    with pytest.raises(InvalidRequest):
        background.cancel_response("o", "plain")


def test_response_that_cannot_be_stored_is_not_started(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_write(work: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(database, "write", fail_write)
    request: list[int] = []

    def answer() -> Iterator[Batch]:
        request.append(1)
        yield from ANSWER

    with pytest.raises(StoreUnavailable):
        start_job(background, answer())
    assert request == []


def test_deleted_response_is_not_found(background: BackgroundRunner) -> None:
    response_id = start_job(background, iter(ANSWER))
    read_events(background, response_id)

    stored = background.remove_response("o", response_id)
    assert stored is not None
    assert stored.id == response_id
    assert background.remove_response("o", response_id) is None
    with pytest.raises(NotFound):
        background.read_response("o", response_id)


@with_short_intervals
def test_reading_a_lost_response_fails_it(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    store_lost_response(database)

    assert read_events(background, "a")[-1]["type"] == "response.failed"
    assert background.read_response("o", "a").body["error"] == work.WORKER_DIED_ERROR
