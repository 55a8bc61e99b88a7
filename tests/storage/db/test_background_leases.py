"""Ownership and leases of background responses; the first end of a response is final."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.stored_data_limit import StoredDataLimit
from forwarder.core.types import Json
from forwarder.storage.db import (
    Database,
    background_leases,
    conversations,
    event_log_encoding,
    responses,
)
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import PostgresqlDatabase as PostgresDatabase
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from tests.live.postgres import Postgres, needs_postgres, run_postgres_process

ITEM: Json = {"type": "message", "id": "msg_1"}


def make_event(number: int, kind: str = "x", **more: Any) -> Json:
    return {"type": kind, "sequence_number": number, **more}


def queue_response(
    database: SqliteDatabase, name: str = "a", lease: float = 60.0
) -> StoredResponse:
    body = {"id": name, "background": True, "output": []}
    one = StoredResponse(name, "queued", [], body, 1.0, worker="w", lease=time.time() + lease)
    database.write(
        lambda c: responses.add(c, "o", one, [event_log_encoding.pack_events([make_event(0)])])
    )
    return find_response(database, name)


def find_response(database: Database, name: str = "a") -> StoredResponse:
    stored = database.read(lambda c: responses.find(c, "o", name))
    assert stored is not None
    return stored


def read_log(database: Database) -> list[Any]:
    one = find_response(database)
    log = database.read(lambda c: responses.read_events_after(c, "o", one, -1))
    return [(e["type"], e["sequence_number"]) for e in log]


def finish_work(database: Database, worker: str = "w", number: int = 2) -> bool:
    body = {"id": "a", "status": "completed", "output": [ITEM]}
    last = [make_event(number, "response.completed", response=body)]
    return database.write(
        lambda c: background_leases.finish_work(c, "o", "a", worker, body, "up", last)
    )


def test_progress_and_end_are_stored(database: SqliteDatabase) -> None:
    queue_response(database)
    assert database.read(lambda c: background_leases.list_own(c, "w")) == {("o", "a")}
    assert database.write(
        lambda c: background_leases.append_progress(c, "o", "a", "w", [make_event(1)])
    )
    assert find_response(database).status == "in_progress"
    assert finish_work(database)

    one = find_response(database)
    assert (one.status, one.upstream, one.lease, one.is_running) == ("completed", "up", None, False)
    assert [number for _, number in read_log(database)] == [0, 1, 2]
    found_items = database.read(
        lambda c: responses.find_items_by_id(c, "o", ["msg_1"], StoredDataLimit())
    )
    assert found_items == {"msg_1": ITEM}
    assert database.read(lambda c: background_leases.list_own(c, "w")) == set()


@pytest.mark.parametrize("worker", ["other", "w"])
def test_worker_without_the_lease_cannot_write(database: SqliteDatabase, worker: str) -> None:
    one = queue_response(database)
    if worker == "w":
        database.write(lambda c: background_leases.end_work(c, "o", one, "cancelled", None))
    before = read_log(database)

    assert not database.write(
        lambda c: background_leases.append_progress(c, "o", "a", worker, [make_event(7)])
    )
    assert not finish_work(database, worker)
    assert read_log(database) == before


def test_cancelled_response_keeps_its_output(database: SqliteDatabase) -> None:
    one = queue_response(database)
    done = make_event(1, "response.output_item.done", item=ITEM)
    database.write(
        lambda c: background_leases.append_progress(c, "o", "a", "w", [done, make_event(2)])
    )

    ended = database.write(lambda c: background_leases.end_work(c, "o", one, "cancelled", None))
    assert ended.body == find_response(database).body
    assert (ended.body["status"], ended.body["output"]) == ("cancelled", [ITEM])
    assert read_log(database)[-1] == ("response.incomplete", 3)
    repeated = database.write(lambda c: background_leases.end_work(c, "o", one, "failed", None))
    assert repeated.status == "cancelled"


def test_job_with_expired_lease_is_listed_and_failed(database: SqliteDatabase) -> None:
    leased, expired = queue_response(database, "b"), queue_response(database, lease=-1)

    assert (leased.is_lost, expired.is_lost) == (False, True)
    assert database.read(background_leases.list_lost) == [("o", "a")]
    assert database.write(lambda c: background_leases.fail_lost(c, "o", leased.id)) is None
    assert database.write(lambda c: background_leases.fail_lost(c, "o", expired.id))
    assert (find_response(database).status, find_response(database).body["error"]) == (
        "failed",
        background_leases.WORKER_DIED_ERROR,
    )
    assert read_log(database)[-1][0] == "response.failed"
    assert database.read(background_leases.list_lost) == []


def test_only_the_named_leases_of_a_worker_are_renewed(database: SqliteDatabase) -> None:
    for name in ("a", "b"):
        queue_response(database, name, lease=-1)
    database.write(lambda c: background_leases.renew_leases(c, "other", ["a", "b"]))
    assert set(database.read(background_leases.list_lost)) == {("o", "a"), ("o", "b")}
    database.write(lambda c: background_leases.renew_leases(c, "w", ["a"]))
    assert database.read(background_leases.list_lost) == [("o", "b")]


def test_failed_response_keeps_its_output(database: SqliteDatabase) -> None:
    queue_response(database)
    new_events = [
        make_event(1, "response.output_item.done", output_index=0, item=ITEM),
        make_event(
            2, "response.output_item.added", output_index=1, item={"type": "message", "id": "msg_2"}
        ),
        make_event(3, "response.output_text.delta", output_index=1, content_index=0, delta="So fa"),
    ]
    database.write(lambda c: background_leases.append_progress(c, "o", "a", "w", new_events))
    body = {"id": "a", "status": "failed", "output": []}
    last = [
        make_event(4, "response.output_text.delta", output_index=1, content_index=0, delta="r."),
        make_event(5, "response.failed", response=body),
    ]
    assert database.write(
        lambda c: background_leases.finish_work(c, "o", "a", "w", body, "up", last)
    )

    first, second = find_response(database).body["output"]
    assert first == ITEM
    assert (second["status"], second["content"][0]["text"]) == ("incomplete", "So far.")


# -- attempts -------------------------------------------------------------------------------------


def begin_work(database: Database, request: str | None = "sealed") -> None:
    body = {"id": "a", "background": True, "output": [], "metadata": {"k": "v"}}
    one = StoredResponse("a", "queued", [], body, 1.0)
    first_events = [
        make_event(0, "response.created", response=body),
        make_event(1, "response.queued"),
    ]
    database.write(
        lambda c: responses.add(c, "o", one, [event_log_encoding.pack_events(first_events)])
    )
    database.write(lambda c: background_leases.grant_lease(c, "o", "a", "w", request))
    database.write(
        lambda c: background_leases.append_progress(
            c, "o", "a", "w", [make_event(2), make_event(3), make_event(4)]
        )
    )


def expire_leases(database: Database) -> None:
    statement = sa.text("UPDATE responses SET lease = lease - 60")
    database.write(lambda c: c.execute(statement))


def read_size(database: Database) -> Any:
    return database.read(lambda c: c.scalar(sa.text("SELECT size FROM responses")))


def claim_job(
    database: SqliteDatabase, worker: str, attempts: int = 3
) -> background_leases.ClaimedWork | StoredResponse | None:
    return database.write(lambda c: background_leases.claim_work(c, "o", "a", worker, attempts))


def test_released_job_is_claimed_once(database: SqliteDatabase) -> None:
    begin_work(database)
    assert database.read(background_leases.list_waiting) == []
    assert not database.write(lambda c: background_leases.release_work(c, "o", "a", "other"))
    assert database.write(lambda c: background_leases.release_work(c, "o", "a", "w"))
    assert not database.write(
        lambda c: background_leases.append_progress(c, "o", "a", "w", [make_event(5)])
    )
    assert (
        database.read(background_leases.list_waiting),
        database.read(background_leases.list_lost),
    ) == (
        [("o", "a")],
        [],
    )

    before = read_size(database)
    claimed = claim_job(database, "x")
    assert isinstance(claimed, background_leases.ClaimedWork)
    assert claim_job(database, "y") is None
    assert read_size(database) < before
    assert (claimed.request, claimed.attempt, claimed.next_number) == ("sealed", 2, 6)
    assert claimed.response.body["metadata"] == {"k": "v", "forwarder.attempt": "2"}
    # Events of the first attempt are deleted, and their numbers are not reused.
    assert read_log(database) == [
        ("response.created", 0),
        ("response.queued", 1),
        ("response.queued", 5),
    ]
    assert database.read(lambda c: background_leases.list_own(c, "x")) == {("o", "a")}


def test_search_for_waiting_jobs_uses_an_index(database: SqliteDatabase) -> None:
    statements: list[str] = []

    def read_plan(connection: sa.Connection) -> None:
        sa.event.listen(
            connection, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
        )
        background_leases.list_waiting(connection)

    database.read(read_plan)
    plan = database.read(
        lambda c: str(
            c.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {statements[-1]}", (0.5,) * statements[-1].count("?")
            ).all()
        )
    )
    assert "SEARCH responses USING INDEX responses_by_lease" in plan


def test_number_of_attempts_is_limited(database: SqliteDatabase) -> None:
    begin_work(database)
    expire_leases(database)
    assert isinstance(claim_job(database, "x", attempts=2), background_leases.ClaimedWork)
    assert not find_response(database).is_lost
    expire_leases(database)

    assert database.read(background_leases.list_waiting) == []
    assert find_response(database).is_lost
    assert not database.write(lambda c: background_leases.release_work(c, "o", "a", "x"))


def test_lowered_attempt_limit_fails_the_job(database: SqliteDatabase) -> None:
    begin_work(database)
    expire_leases(database)

    assert claim_job(database, "x", attempts=1) == find_response(database)
    assert (find_response(database).status, find_response(database).body["error"]) == (
        "failed",
        background_leases.WORKER_DIED_ERROR,
    )


def test_request_is_deleted_at_the_end(database: SqliteDatabase) -> None:
    begin_work(database)
    assert finish_work(database, number=5)
    column = sa.text("SELECT request FROM responses")
    assert database.read(lambda c: c.scalar(column)) is None


def test_job_without_request_is_not_released(database: SqliteDatabase) -> None:
    begin_work(database, None)
    assert not database.write(lambda c: background_leases.release_work(c, "o", "a", "w"))
    expire_leases(database)
    assert database.read(background_leases.list_waiting) == []
    assert find_response(database).is_lost


def test_worker_clock_does_not_affect_leases(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    for skew in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda skew=skew: real() + skew)
        begin_work(database)
        assert database.read(background_leases.list_waiting) == []
        database.write(lambda c: background_leases.renew_leases(c, "w", ["a"]))
        assert abs((find_response(database).lease or 0) - real() - 15) < 5
        expire_leases(database)
        assert database.read(background_leases.list_waiting) == [("o", "a")]


# -- repeated writes of events and ends, on both databases ----------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with run_postgres_process() as running:
        yield running


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[needs_postgres, pytest.mark.live])]
)
def each_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "sqlite":
        yield request.getfixturevalue("database")
        return
    new_database = PostgresDatabase(sa.make_url(request.getfixturevalue("server").url))
    new_database.prepare()
    new_database.write(lambda c: c.execute(sa.text("DELETE FROM responses")))
    new_database.write(lambda c: c.execute(sa.text("DELETE FROM conversations")))
    yield new_database
    new_database.close()


def test_repeated_events_are_stored_once(each_database: Database) -> None:
    begin_work(each_database)
    before = read_size(each_database)
    pieces = [
        [make_event(5), make_event(6)],
        [make_event(5), make_event(6), make_event(7)],
        [make_event(8)],
    ]
    for piece in (*pieces, pieces[2]):
        assert each_database.write(
            lambda c, piece=piece: background_leases.append_progress(c, "o", "a", "w", piece)
        )  # type: ignore[misc]

    assert [number for _, number in read_log(each_database)] == list(range(9))
    stored = sa.text("SELECT sum(length(data)) FROM events WHERE first >= 5")
    assert read_size(each_database) - before == each_database.read(lambda c: c.scalar(stored))


def test_repeated_end_is_stored_once(each_database: Database) -> None:
    begin_work(each_database)
    for _ in range(2):
        assert finish_work(each_database, number=5)

    assert [number for _, number in read_log(each_database)] == list(range(6))
    assert find_response(each_database).status == "completed"


@pytest.mark.parametrize("number", [5, 3])
def test_answer_replaces_the_failure_of_an_expired_lease(
    each_database: Database, number: int
) -> None:
    """This includes earlier events with an unacknowledged commit."""
    begin_work(each_database, None)
    expire_leases(each_database)
    assert each_database.write(lambda c: background_leases.fail_lost(c, "o", "a"))
    if number == 3:
        each_database.write(lambda c: responses.cut_log(c, "o", "a", 2))
        for piece in ([make_event(2)], [make_event(3), make_event(4)]):
            each_database.write(
                lambda c, piece=piece: responses.append_events(
                    c, "o", "a", event_log_encoding.pack_events(piece)
                )
            )  # type: ignore[misc]
    body = {"id": "a", "status": "completed", "output": [ITEM]}
    last = [*map(make_event, range(number, 6)), make_event(6, "response.completed", response=body)]
    assert each_database.write(
        lambda c: background_leases.finish_work(c, "o", "a", "w", body, "up", last)
    )

    one = find_response(each_database)
    assert (one.status, one.body) == ("completed", {**body, "status": "completed"})
    assert [e for e in read_log(each_database) if e[0] != "x"][2:] == [("response.completed", 6)]
    assert [n for _, n in read_log(each_database)] == list(range(7))


@pytest.mark.parametrize("status", ["failed", "cancelled", "taken"])
def test_end_status_is_final(database: SqliteDatabase, status: str) -> None:
    begin_work(database, None)
    expire_leases(database)
    if status == "taken":
        database.write(lambda c: c.execute(sa.text("UPDATE responses SET worker = 'x'")))
    elif status == "failed":
        body = {"id": "a", "status": "failed", "output": [], "error": {"code": "no"}}
        failed = [make_event(5, "response.failed", response=body)]
        database.write(
            lambda c: background_leases.finish_work(c, "o", "a", "w", body, "up", failed)
        )
    else:
        one = find_response(database)
        database.write(lambda c: background_leases.end_work(c, "o", one, "cancelled", None))
    before = find_response(database)

    assert not finish_work(database, number=5)
    assert find_response(database) == before


def test_failure_does_not_replace_the_failure_of_an_expired_lease(database: SqliteDatabase) -> None:
    begin_work(database, None)
    expire_leases(database)
    database.write(lambda c: background_leases.fail_lost(c, "o", "a"))
    body = {"id": "a", "status": "failed", "output": [], "error": {"code": "no"}}
    failed = [make_event(5, "response.failed", response=body)]
    database.write(lambda c: background_leases.finish_work(c, "o", "a", "w", body, "up", failed))

    assert find_response(database).body["error"] == background_leases.WORKER_DIED_ERROR


def test_job_in_a_locked_conversation_is_not_listed(each_database: Database) -> None:
    for name in ("held", "free"):
        each_database.write(
            lambda c, name=name: conversations.create(c, "o", Conversation(name, 1.0, {}))
        )  # type: ignore[misc]
    each_database.write(lambda c: conversations.acquire_lease(c, "o", "held", "turn"))
    for i, conversation in enumerate(["held"] * background_leases.MAX_WAITING + ["free", "gone"]):
        one = StoredResponse(f"r{i}", "queued", [], {"id": f"r{i}"}, 1.0, conversation=conversation)
        each_database.write(lambda c, one=one: responses.add(c, "o", one, []))  # type: ignore[misc]
        each_database.write(
            lambda c, one=one: background_leases.grant_lease(c, "o", one.id, "w", "sealed")
        )  # type: ignore[misc]
        if conversation == "gone":
            each_database.write(
                lambda c, one=one: background_leases.release_work(c, "o", one.id, "w")
            )  # type: ignore[misc]
    expire_leases(each_database)

    names = [name for _, name in each_database.read(background_leases.list_waiting)]
    assert sorted(names) == ["r8", "r9"]
    assert each_database.read(lambda c: background_leases.list_waiting(c, ["r8"])) == [("o", "r9")]
    assert each_database.read(lambda c: background_leases.list_waiting(c, only_released=True)) == [
        ("o", "r9")
    ]
