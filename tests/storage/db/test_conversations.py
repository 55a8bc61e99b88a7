"""Stored conversations and their items."""

from __future__ import annotations

from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Talk
from forwarder.storage.db.database import Sqlite


def made(database: Sqlite, name: str = "c", owner: str = "o") -> Talk:
    talk = Talk(name, 1.0, {"a": "b"})
    database.write(lambda c: conversations.create(c, owner, talk))
    return talk


def add(database: Sqlite, *names: str, talk: str = "c", owner: str = "o") -> list[str] | None:
    given = [(name, {"say": name}) for name in names]
    said = database.write(lambda c: conversations.append(c, owner, talk, given))
    return None if said is None else [each.id for each in said]


def names(database: Sqlite, talk: str = "c", owner: str = "o") -> list[str]:
    return [s.id for s in database.read(lambda c: conversations.items_of(c, owner, talk))]


def test_a_conversation_is_its_owner_s(database: Sqlite) -> None:
    talk = made(database)

    assert database.read(lambda c: conversations.find(c, "o", "c")) == talk
    assert database.read(lambda c: conversations.find(c, "p", "c")) is None
    assert database.write(lambda c: conversations.describe(c, "p", "c", {})) is None
    assert not database.write(lambda c: conversations.remove(c, "p", "c"))
    assert add(database, "x", owner="p") is None
    changed = database.write(lambda c: conversations.describe(c, "o", "c", {"x": "y"}))
    assert changed == talk._replace(metadata={"x": "y"})


def test_items_stay_in_their_order_and_each_is_there_once(database: Sqlite) -> None:
    made(database)
    made(database, "d")

    assert add(database, "z", "y") == ["z", "y"]
    assert add(database, "z", talk="d") == ["z"]
    assert add(database, "y", "a") == ["y", "a"]
    assert names(database) == ["z", "y", "a"]
    assert database.write(lambda c: conversations.remove_item(c, "o", "c", "y"))
    assert not database.write(lambda c: conversations.remove_item(c, "o", "c", "y"))
    assert (names(database), names(database, "d")) == (["z", "a"], ["z"])


def test_what_was_said_up_to_a_moment(database: Sqlite) -> None:
    made(database)
    assert database.read(lambda c: conversations.last_number(c, "o", "c")) == 0
    add(database, "a", "b")
    until = database.read(lambda c: conversations.last_number(c, "o", "c"))
    add(database, "c")

    said = database.read(lambda c: conversations.items_of(c, "o", "c", until=until))
    assert [(each.id, each.data) for each in said] == [("a", {"say": "a"}), ("b", {"say": "b"})]


def test_items_go_with_their_conversation(database: Sqlite) -> None:
    made(database)
    add(database, "a")

    assert database.write(lambda c: conversations.remove(c, "o", "c"))
    assert names(database) == []


def test_items_are_told_of_in_parts_and_what_was_deleted_keeps_its_place(database: Sqlite) -> None:
    made(database)
    made(database, "d")
    add(database, *"abcde")
    add(database, "x", talk="d")

    def behind(name: str, falling: bool = False, most: int = 9) -> list[str]:
        after = database.read(lambda c: conversations.place(c, "o", "c", name))
        assert after is not None
        said = database.read(lambda c: conversations.listed(c, "o", "c", after, most, falling))
        return [each.id for each in said]

    assert (behind("b"), behind("b", True), behind("b", most=2)) == ([*"cde"], ["a"], [*"cd"])
    for name in "bc":
        assert database.write(lambda c, name=name: conversations.remove_item(c, "o", "c", name))  # type: ignore[misc]
    assert (behind("b"), behind("c", True)) == ([*"de"], ["a"])
    add(database, "b")
    assert behind("e") == ["b"]
    for owner, talk, name in (("o", "c", "x"), ("p", "c", "c"), ("o", "d", "c")):
        place = (owner, talk, name)
        assert database.read(lambda c, place=place: conversations.place(c, *place)) is None  # type: ignore[misc]


def test_items_are_found_in_whichever_conversation_they_are(database: Sqlite) -> None:
    for talk in "cd":
        made(database, talk)
    add(database, "a", "b")
    add(database, "x", talk="d")

    found = database.read(lambda c: conversations.items_named(c, "o", ["a", "x", "y"]))
    assert found == {"a": {"say": "a"}, "x": {"say": "x"}}
    assert database.read(lambda c: conversations.items_named(c, "p", ["a"])) == {}
