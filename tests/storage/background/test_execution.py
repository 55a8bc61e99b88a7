"""Running a job and storing its final response, also while the database fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from forwarder.core.errors import (
    ConversationLocked,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Batch, EventStream
from forwarder.storage.background import BackgroundRunner
from forwarder.storage.db import background_leases as work
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from tests.storage.background.helpers import (
    ANSWER,
    ITEM,
    NATIVE,
    Outage,
    expire_leases,
    new_runner,
    read_events,
    start_job,
    start_upstream_job,
    wait_until,
)

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


def test_upstream_error_fails_the_response(background: BackgroundRunner) -> None:
    def break_stream() -> Iterator[Batch]:
        raise UpstreamProtocolError("It broke.")
        yield []

    *_, error, failed = read_events(background, start_job(background, break_stream()))
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert failed["response"]["error"]["message"] == "It broke."
    assert failed["response"]["status"] == "failed"


def test_job_locks_its_conversation_until_it_ends(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    go = threading.Event()

    def answer_after_start() -> Iterator[Batch]:
        go.wait(10)
        yield from ANSWER

    response_id = start_job(background, answer_after_start(), conversation="conv")
    with pytest.raises(ConversationLocked):
        start_job(background, iter(ANSWER), conversation="conv")
    go.set()
    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    second_id = start_job(background, iter(ANSWER), conversation={"id": "conv"})
    assert read_events(background, second_id)[-1]["type"] == "response.completed"


def test_failed_job_releases_its_conversation(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    for _ in range(2):

        def break_stream() -> Iterator[Batch]:
            raise UpstreamProtocolError("no")
            yield []

        response_id = start_job(background, break_stream(), conversation="conv")
        assert read_events(background, response_id)[-1]["type"] == "response.failed"


# -- finished responses during a database outage --------------------------------------------------


@with_short_intervals
def test_a_finished_response_is_kept_until_it_can_be_stored(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    response_id = start_job(background, iter(ANSWER))
    wait_until(lambda: outage.tries > 7)
    assert background.read_response("o", response_id).is_running
    outage.lasts = False

    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    wait_until(lambda: not background._jobs)
    assert background._jobs.unsaved_bytes == 0


@with_short_intervals
def test_worker_finishes_its_jobs_after_an_outage(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start_job(background, iter(ANSWER))
    wait_until(lambda: outage.tries > 2)
    expire_leases(database)
    for _ in range(3):
        assert background.read_response("o", name).is_running
    outage.lasts = False

    assert read_events(background, name)[-1]["type"] == "response.completed"


@with_short_intervals
def test_a_finished_answer_replaces_the_failure_of_its_expired_lease(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start_job(background, iter(ANSWER))
    wait_until(lambda: outage.tries > 2)
    expire_leases(database)
    assert database.write(lambda c: work.fail_lost(c, "o", name))
    outage.lasts = False
    wait_until(lambda: not background._jobs)

    stored = background.read_response("o", name)
    assert (stored.status, stored.body["output"], stored.body["error"]) == (
        "completed",
        [ITEM],
        None,
    )
    events = read_events(background, name)
    assert [e["type"] for e in events].count("response.failed") == 0
    assert [e["sequence_number"] for e in events] == list(range(5))
    assert database.read(
        lambda c: responses.find_items_by_id(c, "o", ["msg_1"], StoredDataLimit())
    ) == {"msg_1": ITEM}


@with_short_intervals
@pytest.mark.parametrize("status", ["taken", "cancelled"])
def test_discarded_answer_is_logged(
    status: str,
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage(monkeypatch)
    name = start_job(background, iter(ANSWER))
    wait_until(lambda: outage.tries > 2)
    if status == "taken":
        database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'other'")))
    else:
        new_runner(database).cancel_response("o", name)
    with caplog.at_level(logging.WARNING):
        outage.lasts = False
        wait_until(lambda: not background._jobs)

    record_message = {"event": "background_answer_discarded", "response": name}
    assert record_message in [record.msg for record in caplog.records]
    assert background.read_response("o", name).status != "completed"


# -- upstreams that store responses ---------------------------------------------------------------


@with_short_intervals
def test_upstream_response_is_followed_after_a_disconnect(
    background: BackgroundRunner,
) -> None:
    followed: list[work.ResponseOrigin] = []

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield NATIVE[1][:1]
        raise UpstreamUnreachable("It broke.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        followed.append(origin)
        yield from NATIVE

    events = read_events(background, start_upstream_job(background, open_stream, follow))

    assert followed == [("up", "theirs")]
    assert [e.get("delta") for e in events] == [None, None, None, "x", "y", None]
    assert events[-1]["type"] == "response.completed"
    stored = background.read_response("o", events[-1]["response"]["id"])
    assert (stored.upstream, stored.upstream_id) == ("up", "theirs")


@with_short_intervals
def test_following_stops_after_repeated_failures(background: BackgroundRunner) -> None:
    attempts: list[work.ResponseOrigin] = []

    def open_stream() -> EventStream:
        yield NATIVE[0]
        raise UpstreamUnreachable("It broke.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        attempts.append(origin)
        raise UpstreamUnreachable("It is gone.")

    last = read_events(background, start_upstream_job(background, open_stream, follow))[-1]

    assert (last["type"], last["response"]["error"]["message"]) == (
        "response.failed", "It is gone.",
    )  # fmt: skip
    assert len(attempts) == 5
