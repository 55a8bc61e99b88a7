"""A conversation is held by one turn, for as long as that one lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.errors import ConversationLocked, StoreUnavailable
from forwarder.storage import conversation_lock
from forwarder.storage.conversation_lock import Hold, Holds
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Talk
from forwarder.storage.db.database import Sqlite


@pytest.fixture(autouse=True)
def _talk(database: Sqlite) -> None:
    database.write(lambda c: conversations.create(c, "o", Talk("conv", 1.0, {})))


def lease(database: Sqlite) -> float | None:
    found: float | None = database.read(
        lambda c: c.scalar(sa.text("SELECT lease FROM conversations"))
    )
    return found


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def given_back(database: Sqlite, hold: Hold) -> None:
    database.write(hold.give_back)
    hold.done()


@pytest.mark.parametrize("end", [given_back, lambda _, hold: hold.drop()])
def test_another_turn_may_have_it_when_the_first_is_over(
    end: Callable[[Sqlite, Hold], None], database: Sqlite
) -> None:
    one, two = Holds(database), Holds(database)
    first = one.taken("o", "conv")
    for holds in (one, two):
        with pytest.raises(ConversationLocked) as locked:
            holds.taken("o", "conv")
    assert locked.value.status == 400
    assert locked.value.body()["error"]["code"] == "conversation_locked"
    assert locked.value.body()["error"]["param"] == "conversation"

    end(database, first)
    second = two.taken("o", "conv")
    first.drop()  # which is over, and lets nobody else in
    with pytest.raises(ConversationLocked):
        one.taken("o", "conv")
    second.drop()


def test_what_is_not_there_is_not_held(database: Sqlite) -> None:
    holds = Holds(database)
    held = [holds.taken("o", "none"), holds.taken("o", "none"), holds.taken("other", "conv")]
    assert lease(database) is None
    for hold in held:
        hold.drop()


def test_who_has_died_holds_it_no_longer(database: Sqlite) -> None:
    dead, living = Holds(database), Holds(database)
    hold = dead.of("o", "conv")
    database.write(hold.take)  # and says nothing more
    with pytest.raises(ConversationLocked):
        living.taken("o", "conv")

    database.write(lambda c: c.execute(sa.text("UPDATE conversations SET lease = lease - 20")))
    now = living.taken("o", "conv")
    database.write(hold.renew)  # it was not dead, but it is too late
    database.write(hold.give_back)
    with pytest.raises(ConversationLocked):
        dead.taken("o", "conv")
    now.drop()


def test_who_lives_says_so(database: Sqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation_lock, "_RENEW", 0.02)
    failures = [StoreUnavailable(), ValueError("a mistake")]
    write = database.write

    def failing(work: Any) -> Any:
        if failures:
            raise failures.pop()
        return write(work)

    holds = Holds(database)
    hold = holds.taken("o", "conv")
    monkeypatch.setattr(database, "write", failing)
    until(lambda: not failures)
    before = lease(database) or 0.0
    until(lambda: (lease(database) or 0.0) > before)
    hold.drop()
    until(lambda: not holds._renewing)
    again = holds.taken("o", "conv")
    before = lease(database) or 0.0
    until(lambda: (lease(database) or 0.0) > before)
    again.drop()
