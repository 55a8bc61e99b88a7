"""A conversation is held by one turn, for as long as that one lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.errors import ConversationLocked, StoreUnavailable
from forwarder.storage import conversation_lock
from forwarder.storage.conversation_lock import ConversationLock, ConversationLocks
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase


@pytest.fixture(autouse=True)
def _talk(database: SqliteDatabase) -> None:
    database.write(lambda c: conversations.create(c, "o", Conversation("conv", 1.0, {})))


def lease(database: SqliteDatabase) -> float | None:
    found: float | None = database.read(
        lambda c: c.scalar(sa.text("SELECT lease FROM conversations"))
    )
    return found


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def given_back(database: SqliteDatabase, hold: ConversationLock) -> None:
    database.write(hold.release)
    hold.mark_released()


@pytest.mark.parametrize("end", [given_back, lambda _, hold: hold.release_now()])
def test_another_turn_may_have_it_when_the_first_is_over(
    end: Callable[[SqliteDatabase, ConversationLock], None], database: SqliteDatabase
) -> None:
    one, two = ConversationLocks(database), ConversationLocks(database)
    first = one.acquire("o", "conv")
    for holds in (one, two):
        with pytest.raises(ConversationLocked) as locked:
            holds.acquire("o", "conv")
    assert locked.value.status == 400
    assert locked.value.make_body()["error"]["code"] == "conversation_locked"
    assert locked.value.make_body()["error"]["param"] == "conversation"

    end(database, first)
    second = two.acquire("o", "conv")
    first.release_now()  # which is over, and lets nobody else in
    with pytest.raises(ConversationLocked):
        one.acquire("o", "conv")
    second.release_now()


def test_what_is_not_there_is_not_held(database: SqliteDatabase) -> None:
    holds = ConversationLocks(database)
    held = [holds.acquire("o", "none"), holds.acquire("o", "none"), holds.acquire("other", "conv")]
    assert lease(database) is None
    for hold in held:
        hold.release_now()


def test_who_has_died_holds_it_no_longer(database: SqliteDatabase) -> None:
    dead, living = ConversationLocks(database), ConversationLocks(database)
    hold = dead.new_lock("o", "conv")
    database.write(hold.acquire)  # and says nothing more
    with pytest.raises(ConversationLocked):
        living.acquire("o", "conv")

    database.write(lambda c: c.execute(sa.text("UPDATE conversations SET lease = lease - 20")))
    now = living.acquire("o", "conv")
    database.write(hold.renew)  # it was not dead, but it is too late
    database.write(hold.release)
    with pytest.raises(ConversationLocked):
        dead.acquire("o", "conv")
    now.release_now()


def test_who_lives_says_so(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_lock, "LOCK_RENEW_SECONDS", 0.02)
    failures = [StoreUnavailable(), ValueError("a mistake")]
    write = database.write

    def failing(work: Any) -> Any:
        if failures:
            raise failures.pop()
        return write(work)

    holds = ConversationLocks(database)
    hold = holds.acquire("o", "conv")
    monkeypatch.setattr(database, "write", failing)
    until(lambda: not failures)
    before = lease(database) or 0.0
    until(lambda: (lease(database) or 0.0) > before)
    hold.release_now()
    until(lambda: not holds._is_renewing)
    again = holds.acquire("o", "conv")
    before = lease(database) or 0.0
    until(lambda: (lease(database) or 0.0) > before)
    again.release_now()
