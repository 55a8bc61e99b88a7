"""The tables of version 0.1, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from forwarder.storage.db.migrations.versions import v0006_version_0_1

only_sqlite = pytest.mark.parametrize("connection", ["sqlite"], indirect=True)

CONVERSATION = (
    "INSERT INTO conversations (owner, id, created, used, size, metadata)"
    " VALUES ('o', 'conv', 1, 1, 1, '')"
)
RESPONSE = (
    "INSERT INTO responses (owner, id, created, used, size, status, hidden, input, body)"
    " VALUES ('o', 'resp', 1, 1, 1, 'completed', false, '', '')"
)
ITEM = "INSERT INTO items (owner, id, response) VALUES ('o', 'item', 'resp')"
EVENT = "INSERT INTO events VALUES ('o', 'resp', 0, 0, '')"


def test_migration_creates_all_tables(connection: sa.Connection) -> None:
    assert v0006_version_0_1.down_revision is None
    assert set(sa.inspect(connection).get_table_names()) - {"alembic_version"} == {
        "responses", "events", "items", "conversations", "conversation_items", "completions",
        "thoughts", "models", "generations", "gone", "chores",
    }  # fmt: skip


def test_locks_and_logs_are_optional(connection: sa.Connection) -> None:
    connection.exec_driver_sql(CONVERSATION)
    connection.exec_driver_sql(RESPONSE)

    locks = connection.exec_driver_sql("SELECT holder, lease FROM conversations").all()
    logs = connection.exec_driver_sql("SELECT log FROM responses").all()
    assert (locks, logs) == ([(None, None)], [(None,)])


def test_items_and_events_are_deleted_with_their_response(connection: sa.Connection) -> None:
    for statement in (RESPONSE, ITEM, EVENT, "DELETE FROM responses"):
        connection.exec_driver_sql(statement)

    assert connection.exec_driver_sql("SELECT id FROM items").all() == []
    assert connection.exec_driver_sql("SELECT first FROM events").all() == []


def test_items_of_conversations_are_indexed_by_id(connection: sa.Connection) -> None:
    indexes = sa.inspect(connection).get_indexes("conversation_items")

    assert ["owner", "id"] in [index["column_names"] for index in indexes]


def test_indexes_contain_only_responses_that_continue_or_have_a_lease(
    connection: sa.Connection,
) -> None:
    option = f"{connection.dialect.name}_where"
    conditions = {
        index["name"]: str(index.get("dialect_options", {}).get(option, "")).strip("()")
        for index in sa.inspect(connection).get_indexes("responses")
    }

    assert conditions == {
        "responses_by_use": "",
        "responses_by_previous": "previous IS NOT NULL",
        "responses_by_lease": "lease IS NOT NULL",
    }


@only_sqlite
def test_sqlite_uses_the_partial_indexes(connection: sa.Connection) -> None:
    plans = [
        str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {question}").all())
        for question in (
            "SELECT 1 FROM responses a WHERE EXISTS (SELECT 1 FROM responses b"
            " WHERE b.owner = a.owner AND b.previous = a.id)",
            "SELECT id FROM responses WHERE lease IS NOT NULL AND lease < 5",
        )
    ]

    assert "responses_by_previous" in plans[0]
    assert "responses_by_lease" in plans[1]


@only_sqlite
def test_sqlite_stores_items_without_row_ids(connection: sa.Connection) -> None:
    assert sa.inspect(connection).get_table_options("items") == {"sqlite_with_rowid": False}
