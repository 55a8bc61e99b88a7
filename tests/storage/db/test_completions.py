"""Rows of stored chat completions."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.storage.db import completions
from forwarder.storage.db.completions import StoredCompletion
from forwarder.storage.db.database import SqliteDatabase


def add_completion(
    database: SqliteDatabase, name: str, owner: str = "o", **more: Any
) -> StoredCompletion:
    fields: Any = {
        "created": 1.0,
        "model": "m",
        "metadata": {},
        "messages": [],
        "body": {"id": name},
    }
    completion = StoredCompletion(id=name, **{**fields, **more})
    database.write(lambda c: completions.add(c, owner, completion))
    return completion


def list_names(
    database: SqliteDatabase,
    after: str | None = None,
    limit: int = 10,
    descending: bool = False,
    model: str | None = None,
    **metadata: str,
) -> list[str]:
    mark = find_place(database, after) if after else None
    rows = database.read(
        lambda c: completions.list_page(c, "o", mark, limit, descending, model, metadata)
    )
    return [each.id for each in rows]


def find_place(database: SqliteDatabase, name: str, owner: str = "o") -> int | None:
    return database.read(lambda c: completions.find_position(c, owner, name))


def test_completion_is_replaced_and_limited_to_its_owner(database: SqliteDatabase) -> None:
    add_completion(database, "a", model="old")
    completion = add_completion(database, "a", messages=[{"role": "user", "content": "hi"}])

    assert database.read(lambda c: completions.find(c, "o", "a")) == completion
    assert database.read(lambda c: completions.find(c, "p", "a")) is None
    changed = database.write(lambda c: completions.set_metadata(c, "o", "a", {"x": "y"}))
    assert changed == completion._replace(metadata={"x": "y"})
    assert not database.write(lambda c: completions.remove(c, "p", "a"))
    assert database.write(lambda c: completions.remove(c, "o", "a"))
    assert list_names(database) == []


@pytest.mark.parametrize("page", [1, 2, 200])
def test_completions_are_listed_in_pages(
    page: int, database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "FILTER_PAGE_SIZE", page)
    for i, name in enumerate("abcde"):
        add_completion(database, name, model="mn"[i % 2], metadata={"k": "xy"[i % 2], "all": "1"})
    add_completion(database, "f", owner="p")

    assert list_names(database) == [*"abcde"]
    assert list_names(database, descending=True, limit=2) == ["e", "d"]
    assert list_names(database, "b", limit=2) == ["c", "d"]
    assert list_names(database, "b", descending=True) == ["a"]
    assert list_names(database, model="m") == ["a", "c", "e"]
    assert list_names(database, k="y", all="1") == ["b", "d"]
    assert list_names(database, k="y", model="m") == []


def test_deleted_completion_keeps_its_position(database: SqliteDatabase) -> None:
    for name in "abcd":
        add_completion(database, name)
    for name in "bc":
        database.write(lambda c, name=name: completions.remove(c, "o", name))  # type: ignore[misc]

    assert list_names(database, "b") == list_names(database, "c") == ["d"]
    assert list_names(database, "c", descending=True) == ["a"]
    assert find_place(database, "b", owner="p") is None
    assert find_place(database, "e") is None
    add_completion(database, "b")
    assert list_names(database, "b") == []
    assert list_names(database) == ["a", "d", "b"]
