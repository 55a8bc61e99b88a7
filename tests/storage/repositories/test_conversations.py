"""Conversations: creation with items, pages of items, and leases."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import ConversationLocked, InvalidRequest, StoreUnavailable
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation, make_lease
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.pagination import PageRequest
from forwarder.storage.repositories.conversations import ConversationRepository

CONVERSATION = Conversation("conv", 1.0, {"a": "b"})
ITEMS = [(name, {"text": name}) for name in "abc"]


@pytest.fixture
def repository(database: SqliteDatabase) -> ConversationRepository:
    new_repository = ConversationRepository(database)
    new_repository.create("o", CONVERSATION, ITEMS)
    return new_repository


def list_ids(repository: ConversationRepository, page: PageRequest, owner: str = "o") -> list[str]:
    return [item.id for item in repository.list_page(owner, "conv", page, lambda data: None)]


def test_conversation_is_created_with_its_items(repository: ConversationRepository) -> None:
    assert repository.find("o", "conv") == CONVERSATION
    assert repository.find("p", "conv") is None
    assert list_ids(repository, PageRequest(9, None, False)) == ["a", "b", "c"]


def test_conversation_is_not_created_without_its_items(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(conversations, "append_items", fail)
    repository = ConversationRepository(database)
    with pytest.raises(StoreUnavailable):
        repository.create("o", CONVERSATION, ITEMS)

    assert repository.find("o", "conv") is None


def test_page_has_one_more_item_if_there_is_a_next_page(
    repository: ConversationRepository,
) -> None:
    assert list_ids(repository, PageRequest(1, None, True)) == ["c", "b"]
    assert list_ids(repository, PageRequest(1, "b", True)) == ["a"]
    assert repository.remove_item("o", "conv", "b")
    assert list_ids(repository, PageRequest(1, "b", True)) == ["a"]


@pytest.mark.parametrize(("after", "owner"), [("x", "o"), ("a\0", "o"), ("a", "p")])
def test_page_after_an_unknown_item_is_rejected(
    repository: ConversationRepository, after: str, owner: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        list_ids(repository, PageRequest(1, after, True), owner)
    assert refused.value.param == "after"


def test_item_is_found_in_its_conversation(repository: ConversationRepository) -> None:
    item = repository.find_item("o", "conv", "a")
    assert item is not None
    assert item.data == {"text": "a"}
    assert repository.find_item("o", "conv", "x") is None
    assert repository.find_item("p", "conv", "a") is None
    assert repository.append_items("o", "none", ITEMS) is None


def test_deleted_conversation_is_not_found(repository: ConversationRepository) -> None:
    changed = repository.set_metadata("o", "conv", {})
    assert changed == CONVERSATION._replace(metadata={})
    assert repository.remove("o", "conv")
    assert not repository.remove("o", "conv")
    assert repository.set_metadata("o", "conv", {}) is None


def test_lease_locks_an_existing_conversation(repository: ConversationRepository) -> None:
    first, second = make_lease("o", "conv"), make_lease("o", "conv")
    repository.acquire_lock(first)
    repository.acquire_lock(make_lease("o", "none"))  # locks nothing
    with pytest.raises(ConversationLocked):
        repository.acquire_lock(second)
    repository.release_lease(second)
    repository.renew_leases([second, first])
    with pytest.raises(ConversationLocked):
        repository.acquire_lock(second)
    repository.release_lease(first)
    repository.acquire_lock(second)
