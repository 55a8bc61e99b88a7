"""Background responses with database failures, expired leases and unreadable rows."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import StoreUnavailable, UpstreamUnreachable
from forwarder.core.heap_size import measure_heap
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, EventStream
from forwarder.storage.background import BackgroundLimits, BackgroundRunner, BackgroundTask
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import background_leases as work
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from tests.fake_provider.background import (
    ANSWER,
    ITEM,
    NATIVE,
    Outage,
    expire_leases,
    leave_job_behind,
    make_event,
    new_task,
    read_events,
    start_job,
    start_takeover,
    start_upstream_job,
    until,
    wait_and_answer,
)

hurried = pytest.mark.usefixtures("_hurried")


def store_lost_response(database: SqliteDatabase, name: str = "a") -> None:
    """Store a response with an expired lease that cannot be repeated."""
    body = {"id": name, "background": True, "output": []}
    lease = time.time() - 1
    lost = responses.StoredResponse(name, "in_progress", [], body, 1.0, worker="w", lease=lease)
    database.write(lambda c: responses.add(c, "o", lost, []))


def new_runner(
    database: SqliteDatabase, limits: BackgroundLimits | None = None
) -> BackgroundRunner:
    return BackgroundRunner(database, InFlightRequests(), ConversationLocks(database), limits)


def answer_again(context: RequestContext, taken: work.ClaimedWork) -> BackgroundTask:
    return new_task(lambda: iter(ANSWER))


class WriteFailures:
    """Makes writes fail, either before they run or after they took effect."""

    def __init__(self, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = False
        write = database._run_write

        def write_or_fail(work: Callable[[sa.Connection], Any]) -> Any:
            if self.before:
                raise sa.exc.OperationalError("x", None, OSError("disk full"))
            done = write(work)
            if self.after:
                raise sa.exc.DBAPIError("COMMIT", None, OSError("no answer"))
            return done

        monkeypatch.setattr(database, "_run_write", write_or_fail)


@pytest.fixture
def failures(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> WriteFailures:
    monkeypatch.setattr(database.write_breaker, "_pause", 0.02)
    return WriteFailures(database, monkeypatch)


# -- expired leases -------------------------------------------------------------------------------


@hurried
def test_reading_a_lost_response_fails_it(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    store_lost_response(database)

    assert read_events(background, "a")[-1]["type"] == "response.failed"
    assert background.read_response("o", "a").body["error"] == work.WORKER_DIED_ERROR


@hurried
def test_lost_response_fails_without_a_reader(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    store_lost_response(database)
    start_takeover(background, answer_again)

    until(lambda: not database.read(lambda c: work.is_running(c, "o", "a")))


@hurried
def test_leases_are_evaluated_only_after_the_database_settled(
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    failures: WriteFailures,
) -> None:
    monkeypatch.setattr("forwarder.storage.db.settling.SETTLE_SECONDS", 0.6)
    store_lost_response(database)
    failures.before = True
    start_takeover(background, answer_again)
    for _ in range(10):  # reads keep working
        assert background.read_response("o", "a").is_running
        time.sleep(0.1)
    failures.before = False
    until(lambda: not database.write_breaker.is_open)
    recovered = time.monotonic()
    until(lambda: not background.read_response("o", "a").is_running)

    assert time.monotonic() - recovered > 0.4


@hurried
def test_new_worker_waits_before_it_evaluates_leases(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only released jobs have no worker that may be about to renew the lease."""
    monkeypatch.setattr("forwarder.storage.db.settling.SETTLE_SECONDS", 1.0)
    go = threading.Event()
    handed_back, left = (leave_job_behind(database, lambda: wait_and_answer(go)) for _ in range(2))
    expire_leases(database)
    store_lost_response(database)
    worker = sa.text("UPDATE responses SET worker = NULL WHERE id = :id")
    database.write(lambda c: c.execute(worker, {"id": handed_back}))
    start_takeover(background, answer_again)
    begun = time.monotonic()

    def has_ended(name: str) -> bool:
        return not database.read(lambda c: work.is_running(c, "o", name))

    until(lambda: has_ended(handed_back))
    assert not has_ended("a")
    assert not has_ended(left)
    until(lambda: has_ended("a") and has_ended(left))
    assert time.monotonic() - begun > 0.9
    go.set()


@hurried
def test_worker_finishes_its_jobs_after_an_outage(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start_job(background, iter(ANSWER))
    until(lambda: outage.tries > 2)
    expire_leases(database)
    for _ in range(3):
        assert background.read_response("o", name).is_running
    outage.lasts = False

    assert read_events(background, name)[-1]["type"] == "response.completed"


@hurried
def test_a_finished_answer_replaces_the_failure_of_its_lapsed_lease(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start_job(background, iter(ANSWER))
    until(lambda: outage.tries > 2)
    expire_leases(database)
    assert database.write(lambda c: work.reap(c, "o", name))
    outage.lasts = False
    until(lambda: not background._jobs)

    stored = background.read_response("o", name)
    assert (stored.status, stored.body["output"], stored.body["error"]) == (
        "completed",
        [ITEM],
        None,
    )
    events = read_events(background, name)
    assert [e["type"] for e in events].count("response.failed") == 0
    assert [e["sequence_number"] for e in events] == list(range(5))
    assert database.read(lambda c: responses.find_items_by_id(c, "o", ["msg_1"])) == {"msg_1": ITEM}


@hurried
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
    until(lambda: outage.tries > 2)
    if status == "taken":
        database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'other'")))
    else:
        new_runner(database).cancel_response("o", name)
    with caplog.at_level(logging.WARNING):
        outage.lasts = False
        until(lambda: not background._jobs)

    record_message = {"event": "background_answer_discarded", "response": name}
    assert record_message in [record.msg for record in caplog.records]
    assert background.read_response("o", name).status != "completed"


# -- unacknowledged commits -----------------------------------------------------------------------


@hurried
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
    until(lambda: len(database.read(read_log(background, name))) == 4)
    until(lambda: len(background._jobs["o", name].pending_events) == 2)
    steps[0].set()  # adds a pending event
    until(lambda: len(background._jobs["o", name].pending_events) == 3)
    time.sleep(0.5)
    steps[1].set()
    until(lambda: not background._database.read(lambda c: work.is_running(c, "o", name)))
    failures.after = False
    until(lambda: not background._jobs)

    assert background.read_response("o", name).status == "completed"
    events = read_events(background, name)
    assert [e["sequence_number"] for e in events] == list(range(6))
    assert [e.get("delta") for e in events] == [None, None, None, "x", "x", None]
    size = database.read(lambda c: c.scalar(sa.text("SELECT sum(length(data)) FROM events")))
    assert size is not None


def read_log(background: BackgroundRunner, name: str) -> Callable[[sa.Connection], Batch]:
    stored = background.read_response("o", name)
    return lambda connection: responses.read_events_after(connection, "o", stored, -1)


# -- jobs that cannot be taken over ---------------------------------------------------------------


def check_taken_up(background: BackgroundRunner, name: str) -> None:
    last = read_events(background, name)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["metadata"] == {work.ATTEMPT_KEY: "2"}


@hurried
def test_takeover_continues_after_an_error(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, lost, looks = threading.Event(), work.list_lost, []

    def fail_once(connection: sa.Connection, skip: list[str]) -> list[tuple[str, str]]:
        looks.append(1)
        if len(looks) == 1:
            raise TypeError
        return lost(connection, skip)

    monkeypatch.setattr(work, "list_lost", fail_once)
    name = leave_job_behind(database, lambda: wait_and_answer(go))
    expire_leases(database)
    start_takeover(background, answer_again)

    check_taken_up(background, name)
    go.set()


@hurried
def test_locked_conversations_do_not_block_other_jobs(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()
    for i in range(work.MAX_WAITING + 1):
        talk = Conversation(f"conv{i}", 1.0, {})
        database.write(lambda c, talk=talk: conversations.create(c, "o", talk))  # type: ignore[misc]
        leave_job_behind(database, lambda: wait_and_answer(go), conversation=talk.id)
    expire_leases(database)
    free = leave_job_behind(database, lambda: wait_and_answer(go))
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))
    start_takeover(background, answer_again)

    check_taken_up(background, free)
    go.set()


@hurried
@pytest.mark.parametrize("spoiled", ["body = 'z'", "request = 'foreign'"])
def test_unreadable_jobs_do_not_block_other_jobs(
    spoiled: str, background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()
    for _ in range(work.MAX_WAITING + 1):
        leave_job_behind(database, lambda: wait_and_answer(go))
    expire_leases(database)
    database.write(lambda c: c.execute(sa.text(f"UPDATE responses SET worker = 'gone', {spoiled}")))
    sound = leave_job_behind(database, lambda: wait_and_answer(go))
    expire_leases(database)
    admitted = start_takeover(
        background, answer_again, can_decrypt=lambda request: request == "sealed"
    )

    check_taken_up(background, sound)
    go.set()
    until(lambda: all(not context.cleanup for context in admitted))


@hurried
def test_context_is_closed_if_the_task_cannot_be_rebuilt(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.background.SKIP_SECONDS", 0.02)
    go, closed = threading.Event(), threading.Event()
    name = leave_job_behind(database, lambda: wait_and_answer(go))
    expire_leases(database)
    admitted: list[RequestContext] = []

    def admit() -> RequestContext:
        context = RequestContext("again", "background", LossReport())
        context.cleanup.add(closed.set)
        admitted.append(context)
        return context

    def revive(context: RequestContext, taken: work.ClaimedWork) -> BackgroundTask:
        if len(admitted) == 1:
            raise TypeError("of another version")
        return answer_again(context, taken)

    start_takeover(background, revive, new_context=admit)
    assert closed.wait(10)
    expire_leases(database)

    assert read_events(background, name)[-1]["type"] == "response.completed"
    assert background.read_response("o", name).body["metadata"][work.ATTEMPT_KEY] == "3"
    go.set()


# -- cancellation at the upstream -----------------------------------------------------------------


class Cancels(list[tuple[work.ResponseOrigin, str | None]]):
    """Records cancellations at upstreams."""

    def __call__(self, origin: work.ResponseOrigin, request: str | None) -> None:
        self.append((origin, request))


UPSTREAMS = (work.ResponseOrigin("up", "theirs"), "sealed")


@hurried
@pytest.mark.parametrize("ends", ["cancel_response", "remove_response"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_end_before_the_origin_is_stored_cancels_upstream(
    ends: str,
    elsewhere: bool,
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancels, stored, note_origin = Cancels(), threading.Event(), work.set_origin
    start_takeover(background, answer_again, cancel_upstream=cancels)

    def note_later(*given: Any) -> bool:
        if not stored.is_set():
            raise StoreUnavailable
        return note_origin(*given)

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield from wait_and_answer(threading.Event(), NATIVE[2:])

    monkeypatch.setattr(work, "set_origin", note_later)
    name = start_upstream_job(background, open_stream, lambda origin: iter(()))
    job = background._jobs["o", name]
    until(lambda: job.origin)
    getattr(new_runner(database) if elsewhere else background, ends)("o", name)
    stored.set()

    until(lambda: cancels)
    until(lambda: job.context.is_cancelled)
    time.sleep(0.5)
    assert cancels == [UPSTREAMS]


@hurried
def test_end_before_the_upstream_answers_cancels_upstream(background: BackgroundRunner) -> None:
    go, cancels = threading.Event(), Cancels()
    start_takeover(background, answer_again, cancel_upstream=cancels)

    def open_stream() -> EventStream:
        yield []
        go.wait(10)
        yield NATIVE[0]
        raise UpstreamUnreachable("It was read on.")

    context = RequestContext("x", "background", LossReport(), upstream="up")
    job_task = new_task(
        open_stream, encrypted_request="sealed", continues_without_connection=lambda: True
    )
    name = background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"]
    background.cancel_response("o", name)
    time.sleep(0.5)
    assert (context.is_cancelled, cancels) == (False, [])
    go.set()

    until(lambda: cancels)
    assert cancels == [UPSTREAMS]
    until(lambda: not background._jobs)
    assert context.is_cancelled


@hurried
def test_silent_upstream_is_abandoned_after_a_timeout(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.background.ORIGIN_WAIT_SECONDS", 0.3)
    context = RequestContext("x", "background", LossReport(), upstream="up")
    job_task = new_task(
        lambda: wait_and_answer(threading.Event()), continues_without_connection=lambda: True
    )
    name = background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"]
    background.cancel_response("o", name)

    assert not context.is_cancelled
    until(lambda: context.is_cancelled)


@hurried
def test_job_taken_over_by_another_worker_is_not_cancelled(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "set_origin", lambda *given: False)
    cancels = Cancels()
    start_takeover(background, answer_again, cancel_upstream=cancels)

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield from wait_and_answer(threading.Event(), NATIVE[2:])

    name = start_upstream_job(background, open_stream, lambda origin: iter(()))
    job = background._jobs["o", name]
    until(lambda: job.origin)
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'other'")))
    until(lambda: job.context.is_cancelled)
    time.sleep(0.2)

    assert cancels == []


@hurried
def test_failed_takeover_cancels_the_upstream_response(database: SqliteDatabase) -> None:
    go, cancels = threading.Event(), Cancels()

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield from wait_and_answer(go, NATIVE[2:])

    dead = new_runner(database)
    name = start_upstream_job(dead, open_stream, lambda origin: iter(()))
    until(lambda: dead.read_response("o", name).upstream_id)
    dead._jobs.clear()
    time.sleep(0.5)  # wait for its last write
    expire_leases(database)
    background = new_runner(database, BackgroundLimits(max_attempts=1))
    start_takeover(background, answer_again, cancel_upstream=cancels)

    assert read_events(background, name)[-1]["type"] == "response.failed"
    until(lambda: cancels)
    assert cancels == [UPSTREAMS]
    go.set()


# -- memory limit during an outage ----------------------------------------------------------------


@hurried
def test_running_jobs_count_towards_the_unsaved_limit(
    database: SqliteDatabase, failures: WriteFailures, caplog: pytest.LogCaptureFixture
) -> None:
    background = new_runner(database, BackgroundLimits(max_unsaved_bytes=20_000))
    go = threading.Event()

    def chatty() -> Iterator[Batch]:
        yield ANSWER[0]
        go.wait(10)
        while True:
            time.sleep(0.001)
            yield [make_event("output_text.delta", delta="x")]

    name = start_job(background, chatty())
    quiet = start_job(background, wait_and_answer(go, [*ANSWER[:1], *[[]] * 10, *ANSWER[1:]]))
    until(lambda: background.read_response("o", name).status == "in_progress")
    job = background._jobs["o", name]
    failures.before = True
    go.set()
    until(lambda: job.is_dropped)
    failures.before = False
    until(lambda: not background._jobs)

    assert {"event": "background_response_lost", "response": name} in [
        record.msg for record in caplog.records
    ]
    assert background._unsaved_bytes == 0
    stored = background.read_response("o", name)
    assert stored.is_running  # until its lease expires
    assert read_events(background, quiet)[-1]["type"] == "response.completed"


@hurried
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
    until(lambda: outage.tries > 2)
    job = background._jobs["o", name]

    assert (
        background._unsaved_bytes
        == job.unsaved_bytes
        == sum(map(measure_heap, job.pending_events))
        > 100_000
    )
    outage.lasts = False
    until(lambda: not background._jobs)
    assert background._unsaved_bytes == 0
