"""Taking over jobs of other workers, and failing those that cannot be repeated."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.client_identity import derive_owner
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import (
    Overloaded,
)
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import EventStream
from forwarder.storage.background import BackgroundLimits, BackgroundRunner, BackgroundTask
from forwarder.storage.background.job import StreamOpener
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import background_leases as work
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.owners import OwnerResolver
from tests.storage.background.helpers import (
    ANSWER,
    NATIVE,
    UPSTREAM_CANCELLATION,
    RecordedCancellations,
    WriteFailures,
    answer_after,
    answer_again,
    expire_leases,
    leave_job_behind,
    new_runner,
    new_task,
    read_events,
    read_stored_events,
    start_takeover,
    start_upstream_job,
    store_lost_response,
    wait_until,
)

pytestmark = pytest.mark.slow  # waits for leases to expire

with_short_intervals = pytest.mark.usefixtures("_short_intervals")


@pytest.fixture
def stalled_stream() -> Iterator[StreamOpener]:
    """An upstream stream that stalls after two batches."""
    go = threading.Event()

    def open_stream() -> EventStream:
        yield ANSWER[0]
        yield ANSWER[1]
        yield from answer_after(go)

    yield open_stream
    go.set()


@with_short_intervals
def test_job_of_a_dead_worker_is_repeated(
    background: BackgroundRunner, database: SqliteDatabase, stalled_stream: StreamOpener
) -> None:
    response_id = leave_job_behind(database, stalled_stream)
    wait_until(lambda: len(read_stored_events(background, response_id)) > 3)
    stored_events = read_stored_events(background, response_id)
    expire_leases(database)
    assert background.read_response("o", response_id).is_running  # another worker can repeat it
    requests: list[tuple[str, Any]] = []

    def revive(context: RequestContext, claimed_work: work.ClaimedWork) -> BackgroundTask:
        requests.append((claimed_work.request, claimed_work.response.input))
        return new_task(lambda: iter(ANSWER))

    start_takeover(background, revive)
    new_events = read_events(background, response_id, stored_events[-1]["sequence_number"])

    assert [requests[0][0], requests[0][1][0]["content"]] == ["sealed", "hi"]
    assert [e["type"].removeprefix("response.") for e in new_events] == [
        "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    numbers = [e["sequence_number"] for e in new_events]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert numbers[0] > stored_events[-1]["sequence_number"]
    marked = {"a": "b", work.ATTEMPT_KEY: "2"}
    assert [e["response"]["metadata"] for e in new_events if "response" in e] == [marked] * 2 + [
        {work.ATTEMPT_KEY: "2"}  # the upstream decides the other keys
    ]


@with_short_intervals
def test_job_is_moved_to_the_current_owner_before_takeover(
    database: SqliteDatabase, stalled_stream: StreamOpener
) -> None:
    response_id = leave_job_behind(database, stalled_stream)
    wait_until(
        lambda: (
            len(
                read_stored_events(
                    BackgroundRunner(database, InFlightRequests(), ConversationLocks(database)),
                    response_id,
                )
            )
            > 3
        )
    )
    expire_leases(database)
    owners = OwnerResolver(database, ["s"])
    owner = derive_owner(owners._keys[0], "o")
    other = BackgroundRunner(
        database,
        InFlightRequests(),
        ConversationLocks(database),
        migrate_owner=owners.migrate_owner,
    )

    start_takeover(other, lambda context, claimed: new_task(lambda: iter(ANSWER)))

    wait_until(lambda: database.read(lambda c: responses.find(c, owner, response_id)))
    wait_until(lambda: not other.read_response(owner, response_id).is_running)
    assert other.read_response(owner, response_id).status == "completed"
    assert database.read(lambda c: responses.find(c, "o", response_id)) is None


@with_short_intervals
def test_takeover_waits_for_capacity_and_conversation(
    background: BackgroundRunner, database: SqliteDatabase, stalled_stream: StreamOpener
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    response_id = leave_job_behind(database, stalled_stream, conversation="conv")
    expire_leases(database)
    full_runner = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    refused: list[int] = []

    def refuse() -> RequestContext:
        refused.append(1)
        raise Overloaded("no")

    start_takeover(
        full_runner, lambda context, claimed: new_task(lambda: iter(ANSWER)), new_context=refuse
    )
    admitted = start_takeover(background, lambda context, claimed: new_task(lambda: iter(ANSWER)))
    time.sleep(0.3)
    assert (refused, admitted) == ([], [])  # no context is created before the job can be claimed
    assert background.read_response("o", response_id).is_running

    database.write(lambda c: c.execute(sa.text("UPDATE conversations SET lease = lease - 60")))
    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    assert len(admitted) == 1


@with_short_intervals
def test_worker_does_not_take_over_its_own_job(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        background._executor._writer, "_write_progress", lambda: time.sleep(0.05)
    )  # so that the lease is renewed too late
    go = threading.Event()
    job_task = new_task(lambda: answer_after(go), encrypted_request="sealed", is_repeatable=True)
    context = RequestContext("x", "background", LossReport())
    response_id = background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"]
    expire_leases(database)
    admitted = start_takeover(background, lambda context, claimed: new_task(lambda: iter(())))
    time.sleep(0.3)
    go.set()

    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    assert admitted == []


@with_short_intervals
def test_shutting_down_process_takes_over_no_jobs(
    database: SqliteDatabase, stalled_stream: StreamOpener
) -> None:
    running = InFlightRequests()
    stopping_runner = BackgroundRunner(database, running, ConversationLocks(database))
    leave_job_behind(database, stalled_stream)
    expire_leases(database)
    running.announce()

    admitted = start_takeover(
        stopping_runner, lambda context, claimed: new_task(lambda: iter(ANSWER))
    )
    time.sleep(0.2)
    assert admitted == []


@with_short_intervals
def test_takeover_follows_the_upstream_response(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()

    def open_stream() -> EventStream:
        yield from NATIVE[:2]
        yield from answer_after(go, NATIVE[2:])

    stopped_runner = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    response_id = start_upstream_job(stopped_runner, open_stream, lambda origin: iter(()))
    wait_until(lambda: len(read_stored_events(stopped_runner, response_id)) == 5)
    wait_until(lambda: stopped_runner.read_response("o", response_id).upstream_id)
    stopped_runner._jobs.clear()
    expire_leases(database)

    def follow(origin: work.ResponseOrigin) -> EventStream:
        yield from NATIVE

    start_takeover(background, lambda context, claimed: new_task(list, follow_stream=follow))
    events = read_events(background, response_id)
    go.set()

    assert [e.get("delta") for e in events] == [None, None, None, "x", "y", None]
    assert [e["sequence_number"] for e in events] == list(range(6))
    assert work.ATTEMPT_KEY not in events[-1]["response"]["metadata"]


@with_short_intervals
def test_failed_takeover_cancels_the_upstream_response(database: SqliteDatabase) -> None:
    go, cancels = threading.Event(), RecordedCancellations()

    def open_stream() -> EventStream:
        yield NATIVE[0]
        yield from answer_after(go, NATIVE[2:])

    stopped_runner = new_runner(database)
    name = start_upstream_job(stopped_runner, open_stream, lambda origin: iter(()))
    wait_until(lambda: stopped_runner.read_response("o", name).upstream_id)
    stopped_runner._jobs.clear()
    time.sleep(0.5)  # wait for its last write
    expire_leases(database)
    background = new_runner(database, BackgroundLimits(max_attempts=1))
    start_takeover(background, answer_again, cancel_upstream=cancels)

    assert read_events(background, name)[-1]["type"] == "response.failed"
    wait_until(lambda: cancels)
    assert cancels == [UPSTREAM_CANCELLATION]
    go.set()


# -- expired leases -------------------------------------------------------------------------------


@with_short_intervals
def test_lost_response_fails_without_a_reader(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    store_lost_response(database)
    start_takeover(background, answer_again)

    wait_until(lambda: not database.read(lambda c: work.is_running(c, "o", "a")))


@with_short_intervals
def test_leases_are_evaluated_only_after_the_database_settled(
    background: BackgroundRunner,
    database: SqliteDatabase,
    monkeypatch: pytest.MonkeyPatch,
    failures: WriteFailures,
) -> None:
    monkeypatch.setattr("forwarder.storage.db.lease_expiry.MIN_STABLE_SECONDS", 0.6)
    store_lost_response(database)
    failures.before = True
    start_takeover(background, answer_again)
    for _ in range(10):  # reads keep working
        assert background.read_response("o", "a").is_running
        time.sleep(0.1)
    failures.before = False
    wait_until(lambda: not database.write_breaker.is_open)
    recovered = time.monotonic()
    wait_until(lambda: not background.read_response("o", "a").is_running)

    assert time.monotonic() - recovered > 0.4


@with_short_intervals
def test_new_worker_waits_before_it_evaluates_leases(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only released jobs have no worker that may be about to renew the lease."""
    monkeypatch.setattr("forwarder.storage.db.lease_expiry.MIN_STABLE_SECONDS", 1.0)
    go = threading.Event()
    handed_back, abandoned = (
        leave_job_behind(database, lambda: answer_after(go)) for _ in range(2)
    )
    expire_leases(database)
    store_lost_response(database)
    worker = sa.text("UPDATE responses SET worker = NULL WHERE id = :id")
    database.write(lambda c: c.execute(worker, {"id": handed_back}))
    start_takeover(background, answer_again)
    started_at = time.monotonic()

    def has_ended(name: str) -> bool:
        return not database.read(lambda c: work.is_running(c, "o", name))

    wait_until(lambda: has_ended(handed_back))
    assert not has_ended("a")
    assert not has_ended(abandoned)
    wait_until(lambda: has_ended("a") and has_ended(abandoned))
    assert time.monotonic() - started_at > 0.9
    go.set()


# -- jobs that cannot be taken over ---------------------------------------------------------------


def check_second_attempt(background: BackgroundRunner, name: str) -> None:
    last = read_events(background, name)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["metadata"] == {work.ATTEMPT_KEY: "2"}


@with_short_intervals
def test_takeover_continues_after_an_error(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, list_lost, calls = threading.Event(), work.list_lost, []

    def fail_once(connection: sa.Connection, skip: list[str]) -> list[tuple[str, str]]:
        calls.append(1)
        if len(calls) == 1:
            raise TypeError
        return list_lost(connection, skip)

    monkeypatch.setattr(work, "list_lost", fail_once)
    name = leave_job_behind(database, lambda: answer_after(go))
    expire_leases(database)
    start_takeover(background, answer_again)

    check_second_attempt(background, name)
    go.set()


@with_short_intervals
def test_locked_conversations_do_not_block_other_jobs(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()
    for i in range(work.MAX_WAITING + 1):
        conversation = Conversation(f"conv{i}", 1.0, {})
        database.write(lambda c, talk=conversation: conversations.create(c, "o", talk))  # type: ignore[misc]
        leave_job_behind(database, lambda: answer_after(go), conversation=conversation.id)
    expire_leases(database)
    unlocked_job = leave_job_behind(database, lambda: answer_after(go))
    database.write(lambda c: c.execute(sa.text("UPDATE responses SET lease = lease - 60")))
    start_takeover(background, answer_again)

    check_second_attempt(background, unlocked_job)
    go.set()


@with_short_intervals
@pytest.mark.parametrize("corruption", ["body = 'z'", "request = 'foreign'"])
def test_unreadable_jobs_do_not_block_other_jobs(
    corruption: str, background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()
    for _ in range(work.MAX_WAITING + 1):
        leave_job_behind(database, lambda: answer_after(go))
    expire_leases(database)
    database.write(
        lambda c: c.execute(sa.text(f"UPDATE responses SET worker = 'gone', {corruption}"))
    )
    readable_job = leave_job_behind(database, lambda: answer_after(go))
    expire_leases(database)
    admitted = start_takeover(
        background, answer_again, can_decrypt=lambda request: request == "sealed"
    )

    check_second_attempt(background, readable_job)
    go.set()
    wait_until(lambda: all(not context.cleanup for context in admitted))


@with_short_intervals
def test_context_is_closed_if_the_task_cannot_be_rebuilt(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwarder.storage.background.takeover.SKIP_SECONDS", 0.02)
    go, closed = threading.Event(), threading.Event()
    name = leave_job_behind(database, lambda: answer_after(go))
    expire_leases(database)
    admitted: list[RequestContext] = []

    def admit() -> RequestContext:
        context = RequestContext("again", "background", LossReport())
        context.cleanup.add(closed.set)
        admitted.append(context)
        return context

    def revive(context: RequestContext, claimed_work: work.ClaimedWork) -> BackgroundTask:
        if len(admitted) == 1:
            raise TypeError("of another version")
        return answer_again(context, claimed_work)

    start_takeover(background, revive, new_context=admit)
    assert closed.wait(10)
    expire_leases(database)

    assert read_events(background, name)[-1]["type"] == "response.completed"
    assert background.read_response("o", name).body["metadata"][work.ATTEMPT_KEY] == "3"
    go.set()
