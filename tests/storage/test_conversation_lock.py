"""A conversation is locked by one turn while its worker is alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.errors import ConversationLocked, StoreUnavailable
from forwarder.storage import conversation_lock
from forwarder.storage.conversation_lock import ConversationLock, ConversationLocks
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.repositories.conversations import ConversationRepository


@pytest.fixture(autouse=True)
def _conversation(database: SqliteDatabase) -> None:
    ConversationRepository(database).create("o", Conversation("conv", 1.0, {}))


def read_lease(database: SqliteDatabase) -> float | None:
    lease: float | None = database.read(
        lambda c: c.scalar(sa.text("SELECT lease FROM conversations"))
    )
    return lease


def wait_until(is_true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def release_in_transaction(database: SqliteDatabase, lock: ConversationLock) -> None:
    ConversationRepository(database).release_lease(lock.lease)
    lock.mark_released()


@pytest.mark.parametrize("end", [release_in_transaction, lambda _, lock: lock.release_now()])
def test_lock_is_free_after_its_turn(
    end: Callable[[SqliteDatabase, ConversationLock], None], database: SqliteDatabase
) -> None:
    one, two = ConversationLocks(database), ConversationLocks(database)
    first = one.acquire("o", "conv")
    for locks in (one, two):
        with pytest.raises(ConversationLocked) as locked:
            locks.acquire("o", "conv")
    assert locked.value.status == 400
    assert locked.value.make_body()["error"]["code"] == "conversation_locked"
    assert locked.value.make_body()["error"]["param"] == "conversation"

    end(database, first)
    second = two.acquire("o", "conv")
    first.release_now()  # already released, so this does not release the second lock
    with pytest.raises(ConversationLocked):
        one.acquire("o", "conv")
    second.release_now()


def test_missing_conversation_is_not_locked(database: SqliteDatabase) -> None:
    locks = ConversationLocks(database)
    acquired = [
        locks.acquire("o", "none"),
        locks.acquire("o", "none"),
        locks.acquire("other", "conv"),
    ]
    assert read_lease(database) is None
    for lock in acquired:
        lock.release_now()


def test_lock_of_a_dead_worker_expires(database: SqliteDatabase) -> None:
    dead_worker, living_worker = ConversationLocks(database), ConversationLocks(database)
    lock = dead_worker.new_lock("o", "conv")
    conversations = ConversationRepository(database)
    conversations.acquire_lock(lock.lease)  # no renewal
    with pytest.raises(ConversationLocked):
        living_worker.acquire("o", "conv")

    database.write(lambda c: c.execute(sa.text("UPDATE conversations SET lease = lease - 20")))
    now = living_worker.acquire("o", "conv")
    conversations.renew_leases([lock.lease])  # the worker is alive, but its lease has expired
    conversations.release_lease(lock.lease)
    with pytest.raises(ConversationLocked):
        dead_worker.acquire("o", "conv")
    now.release_now()


def test_lock_is_renewed(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_lock, "LOCK_RENEW_SECONDS", 0.02)
    failures = [StoreUnavailable(), ValueError("a mistake")]
    write = database.write

    def failing(work: Any) -> Any:
        if failures:
            raise failures.pop()
        return write(work)

    locks = ConversationLocks(database)
    lock = locks.acquire("o", "conv")
    monkeypatch.setattr(database, "write", failing)
    wait_until(lambda: not failures)
    before = read_lease(database) or 0.0
    wait_until(lambda: (read_lease(database) or 0.0) > before)
    lock.release_now()
    wait_until(lambda: not locks._is_renewing)
    second_lock = locks.acquire("o", "conv")
    before = read_lease(database) or 0.0
    wait_until(lambda: (read_lease(database) or 0.0) > before)
    second_lock.release_now()
