"""Owner keys, and moving the data of an owner."""

from __future__ import annotations

import pytest

from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.conversations import Conversation, make_lease
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.repositories.completions import CompletionRepository
from forwarder.storage.repositories.conversations import ConversationRepository
from forwarder.storage.repositories.owners import OwnerRepository


@pytest.fixture
def repository(database: SqliteDatabase) -> OwnerRepository:
    return OwnerRepository(database)


def test_key_is_added_only_if_no_key_is_usable(repository: OwnerRepository) -> None:
    def is_second_usable(rows: list[tuple[str, str]]) -> bool:
        return any(sealed == "second" for _, sealed in rows)

    assert [sealed for _, sealed in repository.add_key_unless(bool, "first")] == ["first"]
    assert [sealed for _, sealed in repository.add_key_unless(bool, "x")] == ["first"]
    added = repository.add_key_unless(is_second_usable, "second")
    assert sorted(sealed for _, sealed in added) == ["first", "second"]
    assert repository.add_key_unless(is_second_usable, "x") == repository.list_keys() == added
    for name, _ in added:
        repository.replace_key(name, "renewed")
    assert {sealed for _, sealed in repository.list_keys()} == {"renewed"}


def test_running_turn_keeps_its_conversation(
    database: SqliteDatabase, repository: OwnerRepository
) -> None:
    conversations = ConversationRepository(database)
    conversations.create("before", Conversation("conv", 1.0, {}))
    CompletionRepository(database).add("before", StoredCompletion("c", 1.0, "m", {}, [], {}))
    lease = make_lease("before", "conv")
    conversations.acquire_lock(lease)

    assert not repository.move_idle_owner("before", "now")
    assert repository.list_owners() == {"before"}
    assert not repository.move_owner("before", "now")  # moves the completion only
    assert repository.list_owners() == {"before", "now"}
    conversations.release_lease(lease)
    assert repository.move_idle_owner("before", "now")
    assert (repository.has_rows("before"), repository.has_rows("now")) == (False, True)
    assert conversations.find("now", "conv") is not None
