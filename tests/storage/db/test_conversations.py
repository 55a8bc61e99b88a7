"""Stored conversations and their items."""

from __future__ import annotations

from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase


def create_conversation(
    database: SqliteDatabase, name: str = "c", owner: str = "o"
) -> Conversation:
    conversation = Conversation(name, 1.0, {"a": "b"})
    database.write(lambda c: conversations.create(c, owner, conversation))
    return conversation


def add_items(
    database: SqliteDatabase, *names: str, conversation: str = "c", owner: str = "o"
) -> list[str] | None:
    pairs = [(name, {"say": name}) for name in names]
    rows = database.write(lambda c: conversations.append_items(c, owner, conversation, pairs))
    return None if rows is None else [each.id for each in rows]


def list_ids(database: SqliteDatabase, conversation: str = "c", owner: str = "o") -> list[str]:
    return [s.id for s in database.read(lambda c: conversations.read_items(c, owner, conversation))]


def test_conversation_is_limited_to_its_owner(database: SqliteDatabase) -> None:
    conversation = create_conversation(database)

    assert database.read(lambda c: conversations.find(c, "o", "c")) == conversation
    assert database.read(lambda c: conversations.find(c, "p", "c")) is None
    assert database.write(lambda c: conversations.set_metadata(c, "p", "c", {})) is None
    assert not database.write(lambda c: conversations.remove(c, "p", "c"))
    assert add_items(database, "x", owner="p") is None
    changed = database.write(lambda c: conversations.set_metadata(c, "o", "c", {"x": "y"}))
    assert changed == conversation._replace(metadata={"x": "y"})


def test_items_keep_their_order_without_duplicates(database: SqliteDatabase) -> None:
    create_conversation(database)
    create_conversation(database, "d")

    assert add_items(database, "z", "y") == ["z", "y"]
    assert add_items(database, "z", conversation="d") == ["z"]
    assert add_items(database, "y", "a") == ["y", "a"]
    assert list_ids(database) == ["z", "y", "a"]
    assert database.write(lambda c: conversations.remove_item(c, "o", "c", "y"))
    assert not database.write(lambda c: conversations.remove_item(c, "o", "c", "y"))
    assert (list_ids(database), list_ids(database, "d")) == (["z", "a"], ["z"])


def test_items_up_to_a_number(database: SqliteDatabase) -> None:
    create_conversation(database)
    assert database.read(lambda c: conversations.read_last_number(c, "o", "c")) == 0
    add_items(database, "a", "b")
    until = database.read(lambda c: conversations.read_last_number(c, "o", "c"))
    add_items(database, "c")

    rows = database.read(lambda c: conversations.read_items(c, "o", "c", max_number=until))
    assert [(each.id, each.data) for each in rows] == [("a", {"say": "a"}), ("b", {"say": "b"})]


def test_items_are_deleted_with_their_conversation(database: SqliteDatabase) -> None:
    create_conversation(database)
    add_items(database, "a")

    assert database.write(lambda c: conversations.remove(c, "o", "c"))
    assert list_ids(database) == []


def test_items_are_listed_in_pages_and_deleted_ones_keep_their_position(
    database: SqliteDatabase,
) -> None:
    create_conversation(database)
    create_conversation(database, "d")
    add_items(database, *"abcde")
    add_items(database, "x", conversation="d")

    def list_after(name: str, descending: bool = False, limit: int = 9) -> list[str]:
        after = database.read(lambda c: conversations.find_item_position(c, "o", "c", name))
        assert after is not None
        rows = database.read(
            lambda c: conversations.list_items(c, "o", "c", after, limit, descending)
        )
        return [each.id for each in rows]

    assert (list_after("b"), list_after("b", True), list_after("b", limit=2)) == (
        [*"cde"],
        ["a"],
        [*"cd"],
    )
    for name in "bc":
        assert database.write(lambda c, name=name: conversations.remove_item(c, "o", "c", name))  # type: ignore[misc]
    assert (list_after("b"), list_after("c", True)) == ([*"de"], ["a"])
    add_items(database, "b")
    assert list_after("e") == ["b"]
    for owner, conversation, name in (("o", "c", "x"), ("p", "c", "c"), ("o", "d", "c")):
        key = (owner, conversation, name)
        assert (
            database.read(lambda c, place=key: conversations.find_item_position(c, *place)) is None
        )  # type: ignore[misc]


def test_items_are_found_in_any_conversation(database: SqliteDatabase) -> None:
    for conversation in "cd":
        create_conversation(database, conversation)
    add_items(database, "a", "b")
    add_items(database, "x", conversation="d")

    found_items = database.read(lambda c: conversations.find_items_by_id(c, "o", ["a", "x", "y"]))
    assert found_items == {"a": {"say": "a"}, "x": {"say": "x"}}
    assert database.read(lambda c: conversations.find_items_by_id(c, "p", ["a"])) == {}
