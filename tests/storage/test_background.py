"""Background work: queued, made, read, ended."""

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
    event,
    heard,
    heard_so_far,
    lapse,
    leave_behind,
    serve,
    start,
    start_native,
    task,
    until,
    waiting_for,
)


def test_work_is_told_as_its_own_from_the_first_event_to_the_last(
    background: BackgroundRunner,
) -> None:
    name = start(background, iter(ANSWER), metadata={"a": "b"})

    events = heard(background, name)
    assert [e["type"].removeprefix("response.") for e in events] == [
        "created", "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    assert [e["sequence_number"] for e in events] == [0, 1, 2, 3, 4]
    assert {e["response"]["id"] for e in events if "response" in e} == {name}
    kept = background.read_response("o", name)
    assert kept.body == events[-1]["response"]
    assert (kept.body["output"], kept.body["background"]) == ([ITEM], True)
    assert heard(background, name, 3) == events[4:]
    assert heard(background, name, 9) == []


def test_it_can_be_heard_while_it_goes_on(background: BackgroundRunner) -> None:
    go = threading.Event()

    def slow() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    name, types = start(background, slow()), []
    for batch in background.stream_events("o", name, -1, 60, lambda seconds: not time.sleep(0.01)):
        types += [event["type"] for event in batch]
        if types[-1] == "response.output_text.delta":
            assert background.read_response("o", name).status == "in_progress"
            go.set()
    assert types[-1] == "response.completed"


def test_one_job_that_cannot_be_written_leaves_its_neighbours_alone(
    background: BackgroundRunner,
) -> None:
    go = threading.Event()

    def spoiled() -> Iterator[Batch]:
        yield [*ANSWER[0], event("output_text.delta", delta=object())]  # no JSON
        go.wait(10)

    def sound() -> Iterator[Batch]:
        yield from ANSWER[:2]
        go.wait(10)
        yield ANSWER[2]

    start(background, spoiled())
    name = start(background, sound())
    for batch in background.stream_events("o", name, -1, 60, lambda seconds: not time.sleep(0.01)):
        if batch and batch[-1]["type"] == "response.output_text.delta":
            go.set()
    assert go.is_set()
    assert background.read_response("o", name).status == "completed"


def test_what_the_upstream_refuses_has_failed(background: BackgroundRunner) -> None:
    def broken() -> Iterator[Batch]:
        raise UpstreamProtocolError("It broke.")
        yield []

    *_, error, failed = heard(background, start(background, broken()))
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert failed["response"]["error"]["message"] == "It broke."
    assert failed["response"]["status"] == "failed"


def test_work_that_is_cancelled_is_left(background: BackgroundRunner) -> None:
    left = threading.Event()
    stop = threading.Event()

    def endless() -> Iterator[Batch]:
        yield ANSWER[0]
        stop.wait(10)
        yield ANSWER[2]

    exchange = RequestContext("x", "background", LossReport())
    exchange.cleanup.add(left.set)
    asked = {"model": "m", "input": "hi"}
    name = background.start_job("o", asked, exchange, task(endless))["id"]

    assert background.cancel_response("o", name).status == "cancelled"
    assert left.is_set()
    stop.set()
    assert heard(background, name)[-1]["response"]["status"] == "cancelled"
    assert background.cancel_response("o", name).status == "cancelled"


def test_only_one_s_own_background_work_is_cancelled(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    name = start(background, iter(ANSWER))
    for owner, other in (("p", name), ("o", "resp_x")):
        with pytest.raises(NotFound):
            background.cancel_response(owner, other)
    kept = responses.StoredResponse("plain", "completed", [], {"id": "plain"}, 1.0)
    database.write(lambda c: responses.add(c, "o", kept, []))
    with pytest.raises(InvalidRequest):
        background.cancel_response("o", "plain")


def test_what_cannot_be_queued_is_not_begun(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(work: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(database, "write", broken)
    asked: list[int] = []

    def answer() -> Iterator[Batch]:
        asked.append(1)
        yield from ANSWER

    with pytest.raises(StoreUnavailable):
        start(background, answer())
    assert asked == []


def test_what_is_deleted_is_gone(background: BackgroundRunner) -> None:
    name = start(background, iter(ANSWER))
    heard(background, name)

    kept = background.remove_response("o", name)
    assert kept is not None
    assert kept.id == name
    assert background.remove_response("o", name) is None
    with pytest.raises(NotFound):
        background.read_response("o", name)


def test_work_holds_its_conversation_until_it_is_over(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    go = threading.Event()

    def slow() -> Iterator[Batch]:
        go.wait(10)
        yield from ANSWER

    name = start(background, slow(), conversation="conv")
    with pytest.raises(ConversationLocked):
        start(background, iter(ANSWER), conversation="conv")
    go.set()
    assert heard(background, name)[-1]["type"] == "response.completed"
    again = start(background, iter(ANSWER), conversation={"id": "conv"})
    assert heard(background, again)[-1]["type"] == "response.completed"


def test_work_that_breaks_holds_nothing(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    for _ in range(2):

        def broken() -> Iterator[Batch]:
            raise UpstreamProtocolError("no")
            yield []

        name = start(background, broken(), conversation="conv")
        assert heard(background, name)[-1]["type"] == "response.failed"


# -- finished responses, and a database that is away ---------------------------------------------


@pytest.mark.usefixtures("_hurried")
def test_a_finished_response_is_kept_until_it_can_be_stored(
    background: BackgroundRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = Outage(monkeypatch)
    name = start(background, iter(ANSWER))
    until(lambda: outage.tries > 7)
    assert background.read_response("o", name).is_running
    outage.lasts = False

    assert heard(background, name)[-1]["type"] == "response.completed"
    until(lambda: not background._jobs)
    assert background._unsaved_bytes == 0


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize(
    "limits", [BackgroundLimits(max_unsaved_seconds=0), BackgroundLimits(max_unsaved_bytes=10)]
)
def test_beyond_its_limits_it_is_lost_and_its_lease_runs_out(
    limits: BackgroundLimits, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database), limits)
    outage = Outage(monkeypatch)
    start(background, iter(ANSWER))
    until(lambda: outage.tries and not background._jobs)

    assert background._unsaved_bytes == 0
    renewed: list[list[str]] = []
    monkeypatch.setattr(work, "renew_leases", lambda c, worker, names: renewed.append(names))
    monkeypatch.setattr("forwarder.storage.background.LEASE_RENEW_SECONDS", 0.0)
    go = threading.Event()
    neighbour = start(background, waiting_for(go))
    until(lambda: [neighbour] in renewed)
    go.set()
    assert {name for names in renewed for name in names} == {neighbour}


# -- taking work up -------------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Iterator[StreamOpener]:
    """What an upstream says before it says nothing more."""
    go = threading.Event()

    def made() -> EventStream:
        yield ANSWER[0]
        yield ANSWER[1]
        yield from waiting_for(go)

    yield made
    go.set()


@pytest.mark.usefixtures("_hurried")
def test_work_of_the_dead_is_begun_anew(
    background: BackgroundRunner, database: SqliteDatabase, stuck: StreamOpener
) -> None:
    name = leave_behind(database, stuck)
    until(lambda: len(heard_so_far(background, name)) > 3)
    seen = heard_so_far(background, name)
    lapse(database)
    assert background.read_response("o", name).is_running  # it is not lost
    requests: list[tuple[str, Any]] = []

    def revive(exchange: RequestContext, taken: work.ClaimedWork) -> BackgroundTask:
        requests.append((taken.request, taken.response.input))
        return task(lambda: iter(ANSWER))

    serve(background, revive)
    rest = heard(background, name, seen[-1]["sequence_number"])

    assert [requests[0][0], requests[0][1][0]["content"]] == ["sealed", "hi"]
    assert [e["type"].removeprefix("response.") for e in rest] == [
        "queued", "in_progress", "output_text.delta", "completed",
    ]  # fmt: skip
    numbers = [e["sequence_number"] for e in rest]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert numbers[0] > seen[-1]["sequence_number"]
    marked = {"a": "b", work.ATTEMPT_KEY: "2"}
    assert [e["response"]["metadata"] for e in rest if "response" in e] == [marked] * 2 + [
        {work.ATTEMPT_KEY: "2"}  # of the others the upstream decides
    ]


@pytest.mark.usefixtures("_hurried")
def test_work_under_an_earlier_owner_is_moved_before_it_is_taken_up(
    database: SqliteDatabase, stuck: StreamOpener
) -> None:
    name = leave_behind(database, stuck)
    until(
        lambda: (
            len(
                heard_so_far(
                    BackgroundRunner(database, InFlightRequests(), ConversationLocks(database)),
                    name,
                )
            )
            > 3
        )
    )
    lapse(database)
    owners = OwnerResolver(database, ["s"])
    owner = derive_owner(owners._keys[0], "o")
    other = BackgroundRunner(
        database, InFlightRequests(), ConversationLocks(database), settle_owner=owners.migrate_owner
    )

    serve(other, lambda exchange, taken: task(lambda: iter(ANSWER)))

    until(lambda: database.read(lambda c: responses.find(c, owner, name)))
    until(lambda: not other.read_response(owner, name).is_running)
    assert other.read_response(owner, name).status == "completed"
    assert database.read(lambda c: responses.find(c, "o", name)) is None


@pytest.mark.usefixtures("_hurried")
def test_it_waits_for_room_and_for_its_conversation(
    background: BackgroundRunner, database: SqliteDatabase, stuck: StreamOpener
) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))
    name = leave_behind(database, stuck, conversation="conv")
    lapse(database)
    crowded = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    refused: list[int] = []

    def refuse() -> RequestContext:
        refused.append(1)
        raise Overloaded("no")

    serve(crowded, lambda exchange, taken: task(lambda: iter(ANSWER)), new_context=refuse)
    admitted = serve(background, lambda exchange, taken: task(lambda: iter(ANSWER)))
    time.sleep(0.3)
    assert (refused, admitted) == ([], [])  # nobody is asked for room before it can be taken up
    assert background.read_response("o", name).is_running

    database.write(lambda c: c.execute(sa.text("UPDATE conversations SET lease = lease - 60")))
    assert heard(background, name)[-1]["type"] == "response.completed"
    assert len(admitted) == 1


@pytest.mark.usefixtures("_hurried")
def test_a_worker_does_not_take_up_what_it_is_at(
    background: BackgroundRunner, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        background, "_write_progress", lambda: time.sleep(0.05)
    )  # and renews too late
    go = threading.Event()
    told = task(lambda: waiting_for(go), encrypted_request="sealed", is_repeatable=True)
    exchange = RequestContext("x", "background", LossReport())
    name = background.start_job("o", {"model": "m", "input": "hi"}, exchange, told)["id"]
    lapse(database)
    admitted = serve(background, lambda exchange, taken: task(lambda: iter(())))
    time.sleep(0.3)
    go.set()

    assert heard(background, name)[-1]["type"] == "response.completed"
    assert admitted == []


@pytest.mark.usefixtures("_hurried")
def test_a_process_that_goes_takes_nothing_up(
    database: SqliteDatabase, stuck: StreamOpener
) -> None:
    running = InFlightRequests()
    leaving = BackgroundRunner(database, running, ConversationLocks(database))
    leave_behind(database, stuck)
    lapse(database)
    running.announce()

    admitted = serve(leaving, lambda exchange, taken: task(lambda: iter(ANSWER)))
    time.sleep(0.2)
    assert admitted == []


# -- upstreams that keep responses ----------------------------------------------------------------


@pytest.mark.usefixtures("_hurried")
def test_what_an_upstream_makes_is_followed_when_the_connection_breaks(
    background: BackgroundRunner,
) -> None:
    followed: list[work.ResponseOrigin] = []

    def made() -> EventStream:
        yield NATIVE[0]
        yield NATIVE[1][:1]
        raise UpstreamUnreachable("It broke.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        followed.append(origin)
        yield from NATIVE

    events = heard(background, start_native(background, made, follow))

    assert followed == [("up", "theirs")]
    assert [e.get("delta") for e in events] == [None, None, None, "x", "y", None]
    assert events[-1]["type"] == "response.completed"
    kept = background.read_response("o", events[-1]["response"]["id"])
    assert (kept.upstream, kept.upstream_id) == ("up", "theirs")


@pytest.mark.usefixtures("_hurried")
def test_an_upstream_that_does_not_answer_any_more_is_left(background: BackgroundRunner) -> None:
    tries: list[work.ResponseOrigin] = []

    def made() -> EventStream:
        yield NATIVE[0]
        raise UpstreamUnreachable("It broke.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        tries.append(origin)
        raise UpstreamUnreachable("It is gone.")

    last = heard(background, start_native(background, made, follow))[-1]

    assert (last["type"], last["response"]["error"]["message"]) == (
        "response.failed", "It is gone.",
    )  # fmt: skip
    assert len(tries) == 5


@pytest.mark.usefixtures("_hurried")
def test_who_takes_up_what_an_upstream_makes_follows_it(
    background: BackgroundRunner, database: SqliteDatabase
) -> None:
    go = threading.Event()

    def made() -> EventStream:
        yield from NATIVE[:2]
        yield from waiting_for(go, NATIVE[2:])

    dead = BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))
    name = start_native(dead, made, lambda origin: iter(()))
    until(lambda: len(heard_so_far(dead, name)) == 5)
    until(lambda: dead.read_response("o", name).upstream_id)
    dead._jobs.clear()
    lapse(database)

    def follow(origin: work.ResponseOrigin) -> EventStream:
        yield from NATIVE

    serve(background, lambda exchange, taken: task(list, follow_stream=follow))
    events = heard(background, name)
    go.set()

    assert [e.get("delta") for e in events] == [None, None, None, "x", "y", None]
    assert [e["sequence_number"] for e in events] == list(range(6))
    assert work.ATTEMPT_KEY not in events[-1]["response"]["metadata"]


@pytest.mark.usefixtures("_hurried")
def test_a_response_that_is_cancelled_is_not_followed(background: BackgroundRunner) -> None:
    go = threading.Event()
    followed: list[work.ResponseOrigin] = []

    def made() -> EventStream:
        yield NATIVE[0]
        go.wait(10)
        raise UpstreamUnreachable("It was closed.")

    def follow(origin: work.ResponseOrigin) -> EventStream:
        followed.append(origin)
        yield from NATIVE

    name = start_native(background, made, follow)
    until(lambda: background.read_response("o", name).upstream_id)
    kept = background.cancel_response("o", name)
    go.set()
    until(lambda: not background._jobs)

    assert (kept.status, kept.upstream, kept.upstream_id) == ("cancelled", "up", "theirs")
    assert followed == []
