"""Background jobs: the rows that are stored together at their start, end and takeover."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.errors import ConversationLocked, InvalidRequest
from forwarder.storage.db.background_leases import ClaimedWork, ResponseOrigin
from forwarder.storage.db.conversations import Conversation, make_lease
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.repositories.background_jobs import BackgroundJobRepository
from forwarder.storage.repositories.conversations import ConversationRepository
from forwarder.storage.repositories.responses import ResponseRepository

BODY = {"id": "resp_1", "status": "queued", "background": True, "output": []}
QUEUED = StoredResponse("resp_1", "queued", [], BODY, 1.0)
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
ENDED = {**BODY, "status": "completed", "output": [ITEM]}
OPENING = [
    {"type": f"response.{kind}", "sequence_number": i, "response": BODY}
    for i, kind in enumerate(("created", "queued"))
]
COMPLETED = [{"type": "response.completed", "sequence_number": 2, "response": ENDED}]


@pytest.fixture
def jobs(database: SqliteDatabase) -> BackgroundJobRepository:
    return BackgroundJobRepository(database, "worker_1")


@pytest.fixture
def conversations(database: SqliteDatabase) -> ConversationRepository:
    repository = ConversationRepository(database)
    repository.create("o", Conversation("conv", 1.0, {}))
    return repository


def expire_leases(database: SqliteDatabase) -> None:
    for table in ("responses", "conversations"):
        update = sa.text(f"UPDATE {table} SET lease = lease - 60")
        database.write(lambda c, update=update: c.execute(update))  # type: ignore[misc]


def test_job_in_a_locked_conversation_is_not_stored(
    database: SqliteDatabase, jobs: BackgroundJobRepository, conversations: ConversationRepository
) -> None:
    conversations.acquire_lock(make_lease("o", "conv"))

    with pytest.raises(ConversationLocked):
        jobs.add("o", QUEUED, OPENING, "sealed", make_lease("o", "conv"))

    assert ResponseRepository(database).find("o", "resp_1") is None
    assert jobs.list_own() == set()


@pytest.mark.parametrize(("name", "request_"), [("conv", "sealed"), ("unknown", None)])
def test_job_in_an_upstream_conversation_is_not_repeated(
    jobs: BackgroundJobRepository,
    conversations: ConversationRepository,
    name: str,
    request_: str | None,
) -> None:
    queued = QUEUED._replace(conversation=name)
    jobs.add("o", queued, OPENING, "sealed", make_lease("o", name))

    assert jobs.list_own() == {("o", "resp_1")}
    assert jobs.find_request("o", "resp_1") == request_


def test_end_is_appended_to_the_conversation_and_releases_it(
    database: SqliteDatabase, jobs: BackgroundJobRepository, conversations: ConversationRepository
) -> None:
    lease = make_lease("o", "conv")
    jobs.add("o", QUEUED._replace(conversation="conv"), OPENING, None, lease)

    assert jobs.finish("o", ENDED, COMPLETED, "up", "theirs", lease)

    conversations.acquire_lock(make_lease("o", "conv"))
    assert conversations.find_item("o", "conv", "msg_1") is not None
    stored = ResponseRepository(database).find("o", "resp_1")
    assert stored is not None
    assert (stored.status, stored.upstream, stored.upstream_id) == ("completed", "up", "theirs")
    assert jobs.list_own() == set()


def test_end_of_a_cancelled_job_is_not_appended(
    jobs: BackgroundJobRepository, conversations: ConversationRepository
) -> None:
    lease = make_lease("o", "conv")
    jobs.add("o", QUEUED._replace(conversation="conv"), OPENING, None, lease)
    cancelled = jobs.cancel("o", "resp_1")
    assert cancelled is not None
    assert cancelled.status == "cancelled"

    assert not jobs.finish("o", ENDED, COMPLETED, None, None, lease)

    assert conversations.find_item("o", "conv", "msg_1") is None
    conversations.acquire_lock(make_lease("o", "conv"))


def test_only_background_responses_are_cancelled(
    database: SqliteDatabase, jobs: BackgroundJobRepository
) -> None:
    ResponseRepository(database).store_answer("o", QUEUED._replace(body={}), [], None)

    with pytest.raises(InvalidRequest):
        jobs.cancel("o", "resp_1")
    assert jobs.cancel("o", "resp_x") is None


def test_progress_of_another_worker_is_not_written(
    database: SqliteDatabase, jobs: BackgroundJobRepository
) -> None:
    other = BackgroundJobRepository(database, "worker_2")
    jobs.add("o", QUEUED, OPENING, "sealed", None)
    event: Any = {"type": "response.in_progress", "sequence_number": 2}
    origin = ResponseOrigin("up", "theirs")

    assert not other.append_progress("o", "resp_1", [event])
    assert not other.set_origin("o", "resp_1", origin, "sealed")
    assert not other.release("o", "resp_1")
    assert jobs.append_progress("o", "resp_1", [event])
    assert jobs.set_origin("o", "resp_1", origin, "sealed")
    assert jobs.is_running("o", "resp_1")
    assert jobs.release("o", "resp_1")
    assert other.list_waiting([], only_released=True) == [("o", "resp_1")]
    assert other.list_waiting(["resp_1"]) == []


def test_claimed_job_locks_its_conversation(
    database: SqliteDatabase, jobs: BackgroundJobRepository, conversations: ConversationRepository
) -> None:
    other = BackgroundJobRepository(database, "worker_2")
    queued = QUEUED._replace(conversation="conv")
    jobs.add("o", queued, OPENING, "sealed", make_lease("o", "conv"))
    assert other.claim("o", "resp_1", 3) == (None, None)  # the lease is valid
    expire_leases(database)
    conversations.acquire_lock(turn := make_lease("o", "conv"))
    with pytest.raises(ConversationLocked):
        other.claim("o", "resp_1", 3)
    assert other.list_own() == set()
    conversations.release_lease(turn)

    claimed, lease = other.claim("o", "resp_1", 3)

    assert isinstance(claimed, ClaimedWork)
    assert (claimed.request, claimed.attempt) == ("sealed", 2)
    assert lease is not None
    assert other.list_own() == {("o", "resp_1")}
    with pytest.raises(ConversationLocked):
        conversations.acquire_lock(make_lease("o", "conv"))


def test_claim_that_is_repeated_counts_its_memory_once(
    database: SqliteDatabase, jobs: BackgroundJobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.add("o", QUEUED, OPENING, "sealed", None)
    expire_leases(database)
    memory = BodyReservation(BodyMemory(1_000_000))
    sizes: list[int] = []
    write = database.write

    def write_after_rollback(work: Callable[[sa.Connection], Any]) -> Any:
        """Run the work twice, as when another write of its batch has failed."""

        def fail(connection: sa.Connection) -> None:
            work(connection)
            sizes.append(memory.size)
            raise ConversationLocked

        with suppress(ConversationLocked):
            write(fail)
        return write(work)

    monkeypatch.setattr(database, "write", write_after_rollback)
    claimed, _ = BackgroundJobRepository(database, "worker_2").claim("o", "resp_1", 3, memory)
    assert isinstance(claimed, ClaimedWork)
    assert [memory.size] == sizes
    assert memory.size > 0


def test_lost_job_fails_unless_its_lease_was_renewed(
    database: SqliteDatabase, jobs: BackgroundJobRepository
) -> None:
    jobs.add("o", QUEUED, OPENING, None, None)
    expire_leases(database)
    assert jobs.list_lost([]) == [("o", "resp_1")]
    jobs.renew_leases(["resp_1"])
    assert jobs.list_lost([]) == []
    assert jobs.fail_lost("o", "resp_1") is None
    expire_leases(database)
    failed = jobs.fail_lost("o", "resp_1")
    assert failed is not None
    assert failed.status == "failed"
    assert not jobs.is_running("o", "resp_1")


def test_unreadable_job_waits_before_it_fails(
    database: SqliteDatabase, jobs: BackgroundJobRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.add("o", QUEUED, OPENING, "sealed", None)
    expire_leases(database)
    assert jobs.fail_unreadable("o", "resp_1") is None
    monkeypatch.setattr("forwarder.storage.db.background_leases.MAX_UNREADABLE_SECONDS", 1.0)
    assert jobs.fail_unreadable("o", "resp_1") is not None
