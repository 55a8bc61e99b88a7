"""Background work when the database fails, leases run out, and rows cannot be read."""

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
    event,
    heard,
    lapse,
    leave_behind,
    serve,
    start,
    start_native,
    task,
    until,
    waiting_for,
)

hurried = pytest.mark.usefixtures("_hurried")


def leave_lost(database: SqliteDatabase, name: str = "a") -> None:
    """Work whose lease has run out and that cannot be begun anew."""
    body = {"id": name, "background": True, "output": []}
    lease = time.time() - 1
    lost = responses.StoredResponse(name, "in_progress", [], body, 1.0, worker="w", lease=lease)
    database.write(lambda c: responses.add(c, "o", lost, []))


def another(database: SqliteDatabase, limits: BackgroundLimits | None = None) -> BackgroundRunner:
    return BackgroundRunner(database, InFlightRequests(), ConversationLocks(database), limits)


def answer_again(exchange: RequestContext, taken: work.ClaimedWork) -> BackgroundTask:
    return task(lambda: iter(ANSWER))


class WriteFailures:
    """Makes writes of a database fail, before they are done or after they took effect."""

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


# -- leases that have run out ---------------------------------------------------------------------


@hurried
def test_lost_work_has_failed_for_a_client_that_asks(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    leave_lost(database)

    assert heard(background, "a")[-1]["type"] == "response.failed"
    assert background.read_response("o", "a").body["error"] == work.WORKER_DIED_ERROR


@hurried
def test_lost_work_fails_without_anybody_asking(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    leave_lost(database)
    serve(background, answer_again)

    until(lambda: not database.read(lambda c: work.is_running(c, "o", "a")))


@hurried
def test_leases_are_judged_only_when_writes_have_worked_for_a_while(
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    failures: WriteFailures,
) -> None:
    monkeypatch.setattr("forwarder.storage.db.settling.SETTLE_SECONDS", 0.6)
    leave_lost(database)
    failures.before = True
    serve(background, answer_again)
    for _ in range(10):  # reading works all the time
        assert background.read_response("o", "a").is_running
        time.sleep(0.1)
    failures.before = False
    until(lambda: not database.write_breaker.is_open)
    recovered = time.monotonic()
    until(lambda: not background.read_response("o", "a").is_running)

    assert time.monotonic() - recovered > 0.4


@hurried
def test_a_worker_that_starts_does_not_judge_leases_at_once(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was handed back has no worker that may be about to renew its lease."""
    monkeypatch.setattr("forwarder.storage.db.settling.SETTLE_SECONDS", 1.0)
    go = threading.Event()
    handed_back, left = (leave_behind(database, lambda: waiting_for(go)) for _ in range(2))
    lapse(database)
    leave_lost(database)
    worker = sa.text("UPDATE responses SET worker = NULL WHERE id = :id")
    database.write(lambda c: c.execute(worker, {"id": handed_back}))
    serve(background, answer_again)
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
def test_a_worker_that_was_away_ends_its_own_work(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start(background, iter(ANSWER))
    until(lambda: outage.tries > 2)
    lapse(database)
    for _ in range(3):
        assert background.read_response("o", name).is_running
    outage.lasts = False

    assert heard(background, name)[-1]["type"] == "response.completed"


@hurried
def test_a_finished_answer_replaces_the_failure_of_its_lapsed_lease(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start(background, iter(ANSWER))
    until(lambda: outage.tries > 2)
    lapse(database)
    assert database.write(lambda c: work.reap(c, "o", name))
    outage.lasts = False
    until(lambda: not background._jobs)

    kept = background.read_response("o", name)
    assert (kept.status, kept.body["output"], kept.body["error"]) == ("completed", [ITEM], None)
    events = heard(background, name)
    assert [e["type"] for e in events].count("response.failed") == 0
    assert [e["sequence_number"] for e in events] == list(range(5))
    assert database.read(lambda c: responses.find_items_by_id(c, "o", ["msg_1"])) == {"msg_1": ITEM}


@hurried
@pytest.mark.parametrize("status", ["taken", "cancelled"])
def test_an_answer_that_comes_too_late_is_logged(
    status: str,
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage(monkeypatch)
    name = start(background, iter(ANSWER))
    until(lambda: outage.tries > 2)
    if status == "taken":
        database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'other'")))
    else:
        another(database).cancel_response("o", name)
    with caplog.at_level(logging.WARNING):
        outage.lasts = False
        until(lambda: not background._jobs)

    said = {"event": "background_answer_discarded", "response": name}
    assert said in [record.msg for record in caplog.records]
    assert background.read_response("o", name).status != "completed"


# -- commits that are not acknowledged ------------------------------------------------------------


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

    name = start(background, answer())
    failures.after = True
    until(lambda: len(database.read(read_log(background, name))) == 4)
    until(lambda: len(background._jobs["o", name].pending_events) == 2)
    steps[0].set()  # what is pending grows
    until(lambda: len(background._jobs["o", name].pending_events) == 3)
    time.sleep(0.5)
    steps[1].set()
    until(lambda: not background._database.read(lambda c: work.is_running(c, "o", name)))
    failures.after = False
    until(lambda: not background._jobs)

    assert background.read_response("o", name).status == "completed"
    events = heard(background, name)
    assert [e["sequence_number"] for e in events] == list(range(6))
    assert [e.get("delta") for e in events] == [None, None, None, "x", "x", None]
    size = database.read(lambda c: c.scalar(sa.text("SELECT sum(length(data)) FROM events")))
    assert size is not None


def read_log(background: BackgroundRunner, name: str) -> Callable[[sa.Connection], Batch]:
    kept = background.read_response("o", name)
    return lambda connection: responses.read_events_after(connection, "o", kept, -1)


# -- one response that cannot be taken up ---------------------------------------------------------


def check_taken_up(background: BackgroundRunner, name: str) -> None:
    last = heard(background, name)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["metadata"] == {work.ATTEMPT_KEY: "2"}


@hurried
def test_a_look_that_fails_is_not_the_last(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, lost, looks = threading.Event(), work.list_lost, []

    def fail_once(connection: sa.Connection, skip: list[str]) -> list[tuple[str, str]]:
        looks.append(1)
        if len(looks) == 1:
            raise TypeError
        return lost(connection, skip)

    monkeypatch.setattr(work, "list_lost", fail_once)
    name = leave_behind(database, lambda: waiting_for(go))
    lapse(database)
    serve(background, answer_again)

    check_taken_up(background, name)
    go.set()


@hurried
def test_locked_conversations_do_not_hide_other_work(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()
    for i in range(work.MAX_WAITING + 1):
        talk = Conversation(f"conv{i}", 1.0, {})
        database.write(lambda c, talk=talk: conversations.create(c, "o", talk))  # type: ignore[misc]
        leave_behind(database, lambda: waiting_for(go), conversation=talk.id)
    lapse(database)
    free = leave_behind(database, lambda: waiting_for(go))
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))
    serve(background, answer_again)

    check_taken_up(background, free)
    go.set()


@hurried
@pytest.mark.parametrize("spoiled", ["body = 'z'", "request = 'foreign'"])
def test_work_that_cannot_be_read_does_not_hide_other_work(
    spoiled: str, background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()
    for _ in range(work.MAX_WAITING + 1):
        leave_behind(database, lambda: waiting_for(go))
    lapse(database)
    database.write(lambda c: c.execute(sa.text(f"UPDATE responses SET worker = 'gone', {spoiled}")))
    sound = leave_behind(database, lambda: waiting_for(go))
    lapse(database)
    admitted = serve(background, answer_again, can_decrypt=lambda request: request == "sealed")

    check_taken_up(background, sound)
    go.set()
    until(lambda: all(not exchange.cleanup for exchange in admitted))


@hurried
def test_a_task_that_cannot_be_made_leaves_nothing_open(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.background.SKIP_SECONDS", 0.02)
    go, closed = threading.Event(), threading.Event()
    name = leave_behind(database, lambda: waiting_for(go))
    lapse(database)
    admitted: list[RequestContext] = []

    def admit() -> RequestContext:
        exchange = RequestContext("again", "background", LossReport())
        exchange.cleanup.add(closed.set)
        admitted.append(exchange)
        return exchange

    def revive(exchange: RequestContext, taken: work.ClaimedWork) -> BackgroundTask:
        if len(admitted) == 1:
            raise TypeError("of another version")
        return answer_again(exchange, taken)

    serve(background, revive, new_context=admit)
    assert closed.wait(10)
    lapse(database)

    assert heard(background, name)[-1]["type"] == "response.completed"
    assert background.read_response("o", name).body["metadata"][work.ATTEMPT_KEY] == "3"
    go.set()


# -- ending what an upstream makes ----------------------------------------------------------------


class Cancels(list[tuple[work.ResponseOrigin, str | None]]):
    """What upstreams were told to cancel."""

    def __call__(self, origin: work.ResponseOrigin, request: str | None) -> None:
        self.append((origin, request))


UPSTREAMS = (work.ResponseOrigin("up", "theirs"), "sealed")


@hurried
@pytest.mark.parametrize("ends", ["cancel_response", "remove_response"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_end_before_the_origin_is_stored_reaches_the_upstream(
    ends: str,
    elsewhere: bool,
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancels, stored, note_origin = Cancels(), threading.Event(), work.set_origin
    serve(background, answer_again, cancel_upstream=cancels)

    def note_later(*given: Any) -> bool:
        if not stored.is_set():
            raise StoreUnavailable
        return note_origin(*given)

    def made() -> EventStream:
        yield NATIVE[0]
        yield from waiting_for(threading.Event(), NATIVE[2:])

    monkeypatch.setattr(work, "set_origin", note_later)
    name = start_native(background, made, lambda origin: iter(()))
    job = background._jobs["o", name]
    until(lambda: job.origin)
    getattr(another(database) if elsewhere else background, ends)("o", name)
    stored.set()

    until(lambda: cancels)
    until(lambda: job.context.is_cancelled)
    time.sleep(0.5)
    assert cancels == [UPSTREAMS]


@hurried
def test_an_end_before_the_upstream_answers_reaches_it(background: BackgroundRunner) -> None:
    go, cancels = threading.Event(), Cancels()
    serve(background, answer_again, cancel_upstream=cancels)

    def made() -> EventStream:
        yield []
        go.wait(10)
        yield NATIVE[0]
        raise UpstreamUnreachable("It was read on.")

    exchange = RequestContext("x", "background", LossReport(), upstream="up")
    told = task(made, encrypted_request="sealed", continues_without_connection=lambda: True)
    name = background.start_job("o", {"model": "m", "input": "hi"}, exchange, told)["id"]
    background.cancel_response("o", name)
    time.sleep(0.5)
    assert (exchange.is_cancelled, cancels) == (False, [])
    go.set()

    until(lambda: cancels)
    assert cancels == [UPSTREAMS]
    until(lambda: not background._jobs)
    assert exchange.is_cancelled


@hurried
def test_an_upstream_that_never_answers_is_left_in_the_end(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.background.ORIGIN_WAIT_SECONDS", 0.3)
    exchange = RequestContext("x", "background", LossReport(), upstream="up")
    told = task(lambda: waiting_for(threading.Event()), continues_without_connection=lambda: True)
    name = background.start_job("o", {"model": "m", "input": "hi"}, exchange, told)["id"]
    background.cancel_response("o", name)

    assert not exchange.is_cancelled
    until(lambda: exchange.is_cancelled)


@hurried
def test_work_that_another_worker_has_taken_up_is_not_cancelled(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "set_origin", lambda *given: False)
    cancels = Cancels()
    serve(background, answer_again, cancel_upstream=cancels)

    def made() -> EventStream:
        yield NATIVE[0]
        yield from waiting_for(threading.Event(), NATIVE[2:])

    name = start_native(background, made, lambda origin: iter(()))
    job = background._jobs["o", name]
    until(lambda: job.origin)
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'other'")))
    until(lambda: job.context.is_cancelled)
    time.sleep(0.2)

    assert cancels == []


@hurried
def test_work_that_is_given_up_is_cancelled_at_its_upstream(database: SqliteDatabase) -> None:
    go, cancels = threading.Event(), Cancels()

    def made() -> EventStream:
        yield NATIVE[0]
        yield from waiting_for(go, NATIVE[2:])

    dead = another(database)
    name = start_native(dead, made, lambda origin: iter(()))
    until(lambda: dead.read_response("o", name).upstream_id)
    dead._jobs.clear()
    time.sleep(0.5)  # until its last write
    lapse(database)
    background = another(database, BackgroundLimits(max_attempts=1))
    serve(background, answer_again, cancel_upstream=cancels)

    assert heard(background, name)[-1]["type"] == "response.failed"
    until(lambda: cancels)
    assert cancels == [UPSTREAMS]
    go.set()


# -- memory while nothing can be stored -----------------------------------------------------------


@hurried
def test_running_work_counts_for_the_memory_of_what_cannot_be_stored(
    database: SqliteDatabase, failures: WriteFailures, caplog: pytest.LogCaptureFixture
) -> None:
    background = another(database, BackgroundLimits(max_unsaved_bytes=20_000))
    go = threading.Event()

    def chatty() -> Iterator[Batch]:
        yield ANSWER[0]
        go.wait(10)
        while True:
            time.sleep(0.001)
            yield [event("output_text.delta", delta="x")]

    name = start(background, chatty())
    quiet = start(background, waiting_for(go, [*ANSWER[:1], *[[]] * 10, *ANSWER[1:]]))
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
    kept = background.read_response("o", name)
    assert kept.is_running  # until its lease runs out
    assert heard(background, quiet)[-1]["type"] == "response.completed"


@hurried
def test_what_is_counted_is_the_memory_of_the_events(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    batches = [ANSWER[0], *([event("output_text.delta", delta="x")] for _ in range(500)), ANSWER[2]]
    name = start(background, iter(batches))
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
