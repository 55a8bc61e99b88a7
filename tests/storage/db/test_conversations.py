"""Stored conversations and their items."""

from __future__ import annotations

from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation
from forwarder.storage.db.database import SqliteDatabase


def made(database: SqliteDatabase, name: str = "c", owner: str = "o") -> Conversation:
    talk = Conversation(name, 1.0, {"a": "b"})
    database.write(lambda c: conversations.create(c, owner, talk))
    return talk


def add(
    database: SqliteDatabase, *names: str, talk: str = "c", owner: str = "o"
) -> list[str] | None:
    given = [(name, {"say": name}) for name in names]
    said = database.write(lambda c: conversations.append_items(c, owner, talk, given))
    return None if said is None else [each.id for each in said]


def names(database: SqliteDatabase, talk: str = "c", owner: str = "o") -> list[str]:
    return [s.id for s in database.read(lambda c: conversations.read_items(c, owner, talk))]


def test_a_conversation_is_its_owner_s(database: SqliteDatabase) -> None:
    talk = made(database)

    assert database.read(lambda c: conversations.find(c, "o", "c")) == talk
    assert database.read(lambda c: conversations.find(c, "p", "c")) is None
    assert database.write(lambda c: conversations.set_metadata(c, "p", "c", {})) is None
    assert not database.write(lambda c: conversations.remove(c, "p", "c"))
    assert add(database, "x", owner="p") is None
    changed = database.write(lambda c: conversations.set_metadata(c, "o", "c", {"x": "y"}))
    assert changed == talk._replace(metadata={"x": "y"})


def test_items_stay_in_their_order_and_each_is_there_once(database: SqliteDatabase) -> None:
    made(database)
    made(database, "d")

    assert add(database, "z", "y") == ["z", "y"]
    assert add(database, "z", talk="d") == ["z"]
    assert add(database, "y", "a") == ["y", "a"]
    assert names(database) == ["z", "y", "a"]
    assert database.write(lambda c: conversations.remove_item(c, "o", "c", "y"))
    assert not database.write(lambda c: conversations.remove_item(c, "o", "c", "y"))
    assert (names(database), names(database, "d")) == (["z", "a"], ["z"])


def test_what_was_said_up_to_a_moment(database: SqliteDatabase) -> None:
    made(database)
    assert database.read(lambda c: conversations.read_last_number(c, "o", "c")) == 0
    add(database, "a", "b")
    until = database.read(lambda c: conversations.read_last_number(c, "o", "c"))
    add(database, "c")

    said = database.read(lambda c: conversations.read_items(c, "o", "c", max_number=until))
    assert [(each.id, each.data) for each in said] == [("a", {"say": "a"}), ("b", {"say": "b"})]


def test_items_go_with_their_conversation(database: SqliteDatabase) -> None:
    made(database)
    add(database, "a")

    assert database.write(lambda c: conversations.remove(c, "o", "c"))
    assert names(database) == []


def test_items_are_told_of_in_parts_and_what_was_deleted_keeps_its_place(
    database: SqliteDatabase,
) -> None:
    made(database)
    made(database, "d")
    add(database, *"abcde")
    add(database, "x", talk="d")

    def behind(name: str, falling: bool = False, most: int = 9) -> list[str]:
        after = database.read(lambda c: conversations.find_item_position(c, "o", "c", name))
        assert after is not None
        said = database.read(lambda c: conversations.list_items(c, "o", "c", after, most, falling))
        return [each.id for each in said]

    assert (behind("b"), behind("b", True), behind("b", most=2)) == ([*"cde"], ["a"], [*"cd"])
    for name in "bc":
        assert database.write(lambda c, name=name: conversations.remove_item(c, "o", "c", name))  # type: ignore[misc]
    assert (behind("b"), behind("c", True)) == ([*"de"], ["a"])
    add(database, "b")
    assert behind("e") == ["b"]
    for owner, talk, name in (("o", "c", "x"), ("p", "c", "c"), ("o", "d", "c")):
        place = (owner, talk, name)
        assert (
            database.read(lambda c, place=place: conversations.find_item_position(c, *place))
            is None
        )  # type: ignore[misc]


def test_items_are_found_in_whichever_conversation_they_are(database: SqliteDatabase) -> None:
    for talk in "cd":
        made(database, talk)
    add(database, "a", "b")
    add(database, "x", talk="d")

    found = database.read(lambda c: conversations.find_items_by_id(c, "o", ["a", "x", "y"]))
    assert found == {"a": {"say": "a"}, "x": {"say": "x"}}
    assert database.read(lambda c: conversations.find_items_by_id(c, "p", ["a"])) == {}
