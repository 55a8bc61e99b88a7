"""Background responses: start, stream, cancel, delete, take over."""

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
    ConversationLocked,
    InvalidRequest,
    NotFound,
    Overloaded,
    StoreUnavailable,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, EventStream
from forwarder.storage.background import (
    BackgroundLimits,
    BackgroundRunner,
    BackgroundTask,
    StreamOpener,
)
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import background_leases as work
from forwarder.storage.db import conversations, responses
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.owners import OwnerResolver
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
    read_stored_events,
    start_job,
    start_takeover,
    start_upstream_job,
    until,
    wait_and_answer,
)


def test_events_carry_the_response_own_id_and_numbers(
    background: BackgroundRunner,
) -> None:
    response_id = start_job(background, iter(ANSWER), metadata={"a": "b"})

    events = read_events(background, response_id)
    assert [e["type"].removeprefix("response.") for e in events] == [
        "created", "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    assert [e["sequence_number"] for e in events] == [0, 1, 2, 3, 4]
    assert {e["response"]["id"] for e in events if "response" in e} == {response_id}
    stored = background.read_response("o", response_id)
    assert stored.body == events[-1]["response"]
    assert (stored.body["output"], stored.body["background"]) == ([ITEM], True)
    assert read_events(background, response_id, 3) == events[4:]
    assert read_events(background, response_id, 9) == []


def test_running_response_can_be_streamed(background: BackgroundRunner) -> None:
    go = threading.Event()

    def slow() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    response_id, types = start_job(background, slow()), []
    for batch in background.stream_events(
        "o", response_id, -1, 60, lambda seconds: not time.sleep(0.01)
    ):
        types += [event["type"] for event in batch]
        if types[-1] == "response.output_text.delta":
            assert background.read_response("o", response_id).status == "in_progress"
            go.set()
    assert types[-1] == "response.completed"


def test_unserializable_job_does_not_affect_others(
    background: BackgroundRunner,
) -> None:
    go = threading.Event()

    def spoiled() -> Iterator[Batch]:
        yield [*ANSWER[0], make_event("output_text.delta", delta=object())]  # not JSON-serializable
        go.wait(10)

    def sound() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    start_job(background, spoiled())
    response_id = start_job(background, sound())
    for batch in background.stream_events(
        "o", response_id, -1, 60, lambda seconds: not time.sleep(0.01)
    ):
        if batch and batch[-1]["type"] == "response.output_text.delta":
            go.set()
    assert go.is_set()
    assert background.read_response("o", response_id).status == "completed"


def test_upstream_error_fails_the_response(background: BackgroundRunner) -> None:
    def broken() -> Iterator[Batch]:
        raise UpstreamProtocolError("It broke.")
        yield []

    *_, error, failed = read_events(background, start_job(background, broken()))
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert failed["response"]["error"]["message"] == "It broke."
    assert failed["response"]["status"] == "failed"


def test_cancellation_closes_the_upstream_stream(background: BackgroundRunner) -> None:
    left = threading.Event()
    stop = threading.Event()

    def endless() -> Iterator[Batch]:
        yield ANSWER[0]
        stop.wait(10)
        yield ANSWER[2]

    context = RequestContext("x", "background", LossReport())
    context.cleanup.add(left.set)
    request = {"model": "m", "input": "hi"}
    response_id = background.start_job("o", request, context, new_task(endless))["id"]

    assert background.cancel_response("o", response_id).status == "cancelled"
    assert left.is_set()
    stop.set()
    assert read_events(background, response_id)[-1]["response"]["status"] == "cancelled"
    assert background.cancel_response("o", response_id).status == "cancelled"


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
    def broken(work: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(database, "write", broken)
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


def test_job_locks_its_conversation_until_it_ends(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    go = threading.Event()

    def slow() -> Iterator[Batch]:
        go.wait(10)
        yield from ANSWER

    response_id = start_job(background, slow(), conversation="conv")
    with pytest.raises(ConversationLocked):
        start_job(background, iter(ANSWER), conversation="conv")
    go.set()
    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    again = start_job(background, iter(ANSWER), conversation={"id": "conv"})
    assert read_events(background, again)[-1]["type"] == "response.completed"


def test_failed_job_releases_its_conversation(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    for _ in range(2):

        def broken() -> Iterator[Batch]:
            raise UpstreamProtocolError("no")
            yield []

        response_id = start_job(background, broken(), conversation="conv")
        assert read_events(background, response_id)[-1]["type"] == "response.failed"


# -- finished responses during a database outage --------------------------------------------------


@pytest.mark.usefixtures("_hurried")
def test_a_finished_response_is_kept_until_it_can_be_stored(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    response_id = start_job(background, iter(ANSWER))
    until(lambda: outage.tries > 7)
    assert background.read_response("o", response_id).is_running
    outage.lasts = False

    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    until(lambda: not background._jobs)
    assert background._unsaved_bytes == 0


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize(
    "limits", [BackgroundLimits(max_unsaved_seconds=0), BackgroundLimits(max_unsaved_bytes=10)]
)
def test_response_over_the_limits_is_dropped_and_its_lease_expires(
    limits: BackgroundLimits, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database), limits)
    outage = Outage(monkeypatch)
    start_job(background, iter(ANSWER))
    until(lambda: outage.tries and not background._jobs)

    assert background._unsaved_bytes == 0
    renewed: list[list[str]] = []
    monkeypatch.setattr(work, "renew_leases", lambda c, worker, names: renewed.append(names))
    monkeypatch.setattr("forwarder.storage.background.LEASE_RENEW_SECONDS", 0.0)
    go = threading.Event()
    neighbour = start_job(background, wait_and_answer(go))
    until(lambda: [neighbour] in renewed)
    go.set()
    assert {response_id for names in renewed for response_id in names} == {neighbour}


# -- takeover -------------------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Iterator[StreamOpener]:
    """An upstream stream that stalls after two batches."""
    go = threading.Event()

    def open_stream() -> EventStream:
        yield ANSWER[0]
        yield ANSWER[1]
        yield from wait_and_answer(go)

    yield open_stream
    go.set()


@pytest.mark.usefixtures("_hurried")
def test_job_of_a_dead_worker_is_repeated(
    background: BackgroundRunner, database: SqliteDatabase, stuck: StreamOpener
) -> None:
    response_id = leave_job_behind(database, stuck)
    until(lambda: len(read_stored_events(background, response_id)) > 3)
    seen = read_stored_events(background, response_id)
    expire_leases(database)
    assert background.read_response("o", response_id).is_running  # another worker can repeat it
    requests: list[tuple[str, Any]] = []

    def revive(context: RequestContext, taken: work.ClaimedWork) -> BackgroundTask:
        requests.append((taken.request, taken.response.input))
        return new_task(lambda: iter(ANSWER))

    start_takeover(background, revive)
    rest = read_events(background, response_id, seen[-1]["sequence_number"])

    assert [requests[0][0], requests[0][1][0]["content"]] == ["sealed", "hi"]
    assert [e["type"].removeprefix("response.") for e in rest] == [
        "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    numbers = [e["sequence_number"] for e in rest]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert numbers[0] > seen[-1]["sequence_number"]
    marked = {"a": "b", work.ATTEMPT_KEY: "2"}
    assert [e["response"]["metadata"] for e in rest if "response" in e] == [marked] * 2 + [
        {work.ATTEMPT_KEY: "2"}  # the upstream decides the other keys
    ]


@pytest.mark.usefixtures("_hurried")
def test_job_is_moved_to_the_current_owner_before_takeover(
    database: SqliteDatabase, stuck: StreamOpener
) -> None:
    response_id = leave_job_behind(database, stuck)
    until(
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
        database, InFlightRequests(), ConversationLocks(database), settle_owner=owners.migrate_owner
    )

    start_takeover(other, lambda context, taken: new_task(lambda: iter(ANSWER)))

    until(lambda: database.read(lambda c: responses.find(c, owner, response_id)))
    until(lambda: not other.read_response(owner, response_id).is_running)
    assert other.read_response(owner, response_id).status == "completed"
    assert database.read(lambda c: responses.find(c, "o", response_id)) is None


@pytest.mark.usefixtures("_hurried")
def test_takeover_waits_for_capacity_and_conversation(
    background: BackgroundRunner, database: SqliteDatabase, stuck: StreamOpener
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    response_id = leave_job_behind(database, stuck, conversation="conv")
    expire_leases(database)
    crowded = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    refused: list[int] = []

    def refuse() -> RequestContext:
        refused.append(1)
        raise Overloaded("no")

    start_takeover(
        crowded, lambda context, taken: new_task(lambda: iter(ANSWER)), new_context=refuse
    )
    admitted = start_takeover(background, lambda context, taken: new_task(lambda: iter(ANSWER)))
    time.sleep(0.3)
    assert (refused, admitted) == ([], [])  # no context is created before the job can be claimed
    assert background.read_response("o", response_id).is_running

    database.write(lambda c: c.execute(sa.text("UPDATE conversations SET lease = lease - 60")))
    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    assert len(admitted) == 1


@pytest.mark.usefixtures("_hurried")
def test_worker_does_not_take_over_its_own_job(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        background, "_write_progress", lambda: time.sleep(0.05)
    )  # so that the lease is renewed too late
    go = threading.Event()
    job_task = new_task(lambda: wait_and_answer(go), encrypted_request="sealed", is_repeatable=True)
    context = RequestContext("x", "background", LossReport())
    response_id = background.start_job("o", {"model": "m", "input": "hi"}, context, job_task)["id"]
    expire_leases(database)
    admitted = start_takeover(background, lambda context, taken: new_task(lambda: iter(())))
    time.sleep(0.3)
    go.set()

    assert read_events(background, response_id)[-1]["type"] == "response.completed"
    assert admitted == []


@pytest.mark.usefixtures("_hurried")
def test_shutting_down_process_takes_nothing_over(
    database: SqliteDatabase, stuck: StreamOpener
) -> None:
    running = InFlightRequests()
    leaving = BackgroundRunner(database, running, ConversationLocks(database))
    leave_job_behind(database, stuck)
    expire_leases(database)
    running.announce()

    admitted = start_takeover(leaving, lambda context, taken: new_task(lambda: iter(ANSWER)))
    time.sleep(0.2)
    assert admitted == []


# -- upstreams that store responses ---------------------------------------------------------------


@pytest.mark.usefixtures("_hurried")
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


@pytest.mark.usefixtures("_hurried")
def test_following_stops_after_repeated_failures(background: BackgroundRunner) -> None:
    tries: list[work.ResponseOrigin] = []

    def open_stream() -> EventStream:
        yield NATIVE[0]
        raise UpstreamUnreachable("It broke.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        tries.append(origin)
        raise UpstreamUnreachable("It is gone.")

    last = read_events(background, start_upstream_job(background, open_stream, follow))[-1]

    assert (last["type"], last["response"]["error"]["message"]) == (
        "response.failed", "It is gone.",
    )  # fmt: skip
    assert len(tries) == 5


@pytest.mark.usefixtures("_hurried")
def test_takeover_follows_the_upstream_response(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()

    def open_stream() -> EventStream:
        yield from NATIVE[:2]
        yield from wait_and_answer(go, NATIVE[2:])

    dead = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    response_id = start_upstream_job(dead, open_stream, lambda origin: iter(()))
    until(lambda: len(read_stored_events(dead, response_id)) == 5)
    until(lambda: dead.read_response("o", response_id).upstream_id)
    dead._jobs.clear()
    expire_leases(database)

    def follow(origin: work.ResponseOrigin) -> EventStream:
        yield from NATIVE

    start_takeover(background, lambda context, taken: new_task(list, follow_stream=follow))
    events = read_events(background, response_id)
    go.set()

    assert [e.get("delta") for e in events] == [None, None, None, "x", "y", None]
    assert [e["sequence_number"] for e in events] == list(range(6))
    assert work.ATTEMPT_KEY not in events[-1]["response"]["metadata"]


@pytest.mark.usefixtures("_hurried")
def test_cancelled_response_is_not_followed(background: BackgroundRunner) -> None:
    go = threading.Event()
    followed: list[work.ResponseOrigin] = []

    def open_stream() -> EventStream:
        yield NATIVE[0]
        go.wait(10)
        raise UpstreamUnreachable("It was closed.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        followed.append(origin)
        yield from NATIVE

    response_id = start_upstream_job(background, open_stream, follow)
    until(lambda: background.read_response("o", response_id).upstream_id)
    stored = background.cancel_response("o", response_id)
    go.set()
    until(lambda: not background._jobs)

    assert (stored.status, stored.upstream, stored.upstream_id) == ("cancelled", "up", "theirs")
    assert followed == []
