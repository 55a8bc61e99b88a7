"""Stored responses: one transaction per answer, and events of responses without a log."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import ConversationLocked, StoreUnavailable
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation, make_lease
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.event_log_encoding import pack_events
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.pagination import PageRequest
from forwarder.storage.repositories.conversations import ConversationRepository
from forwarder.storage.repositories.responses import ResponseRepository

ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
ANSWER = StoredResponse(
    "resp_1",
    "completed",
    [{"role": "user", "content": "hi"}],
    {"id": "resp_1", "object": "response", "status": "completed", "output": [ITEM]},
    1.0,
    conversation="conv",
)


@pytest.fixture
def items(database: SqliteDatabase) -> ConversationRepository:
    repository = ConversationRepository(database)
    repository.create(
        "o", Conversation("conv", 1.0, {}), [("first", {"role": "user", "content": "x"})]
    )
    return repository


def list_roles(items: ConversationRepository) -> list[str]:
    page = PageRequest(9, None, False)
    return [item.data["role"] for item in items.list_page("o", "conv", page, lambda data: None)]


def test_answer_is_appended_to_its_conversation_and_releases_it(
    database: SqliteDatabase, items: ConversationRepository
) -> None:
    lease = make_lease("o", "conv")
    items.acquire_lock(lease)

    repository = ResponseRepository(database)
    repository.store_answer("o", ANSWER, [], lease)

    items.acquire_lock(make_lease("o", "conv"))
    assert list_roles(items) == ["user", "user", "assistant"]
    stored, first = repository.find("o", "resp_1"), items.find_item("o", "conv", "first")
    assert stored is not None
    assert first is not None
    assert stored.before == first.number


def test_answer_without_a_log_is_only_appended(
    database: SqliteDatabase, items: ConversationRepository
) -> None:
    repository = ResponseRepository(database)
    repository.store_answer("o", ANSWER, None, None)

    assert repository.find("o", "resp_1") is None
    assert list_roles(items) == ["user", "user", "assistant"]


def test_failed_answer_is_not_appended(
    database: SqliteDatabase, items: ConversationRepository
) -> None:
    ResponseRepository(database).store_answer("o", ANSWER._replace(status="failed"), [], None)

    assert list_roles(items) == ["user"]


def test_answer_that_cannot_be_appended_is_not_stored(
    database: SqliteDatabase, items: ConversationRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise StoreUnavailable

    lease = make_lease("o", "conv")
    items.acquire_lock(lease)
    monkeypatch.setattr(conversations, "append_items", fail)
    repository = ResponseRepository(database)
    with pytest.raises(StoreUnavailable):
        repository.store_answer("o", ANSWER, [], lease)

    assert repository.find("o", "resp_1") is None
    with pytest.raises(ConversationLocked):
        items.acquire_lock(make_lease("o", "conv"))


def test_removed_response_is_returned_once(
    database: SqliteDatabase, items: ConversationRepository
) -> None:
    repository = ResponseRepository(database)
    repository.store_answer("o", ANSWER, [], None)

    assert repository.remove("p", "resp_1") is None
    removed = repository.remove("o", "resp_1")
    assert removed is not None
    assert removed.body == ANSWER.body
    assert repository.remove("o", "resp_1") is None


def test_events_are_made_for_a_response_without_a_log(database: SqliteDatabase) -> None:
    repository = ResponseRepository(database)
    answer = ANSWER._replace(conversation=None)
    repository.store_answer("o", answer, [], None)

    events = repository.read_events("o", answer, -1)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert repository.read_events("o", answer, events[-2]["sequence_number"]) == events[-1:]


def test_terminal_event_is_not_read_while_the_response_is_running(
    database: SqliteDatabase,
) -> None:
    types = ("response.created", "response.completed")
    log = pack_events([{"type": t, "sequence_number": i} for i, t in enumerate(types)])
    repository = ResponseRepository(database)
    answer = ANSWER._replace(conversation=None)
    repository.store_answer("o", answer, [log], None)

    def read_types(stored: StoredResponse, after: int) -> list[str]:
        return [event["type"] for event in repository.read_events("o", stored, after)]

    assert read_types(answer._replace(status="in_progress"), -1) == ["response.created"]
    assert read_types(answer, -1) == list(types)
    assert read_types(answer, 1) == []
