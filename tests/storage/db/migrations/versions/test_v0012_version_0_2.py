"""The upgrade from version 0.1 to the tables of version 0.2, on both databases."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from forwarder.storage.db.client_keys import ClientKeyRow
from forwarder.storage.db.migrate import LATEST_VERSION, migrate, read_version
from forwarder.storage.db.migrations.versions import v0006_version_0_1, v0012_version_0_2
from forwarder.storage.db.usage import UsageCounts, UsageKey

OBJECT = {"owner": "o", "created": 1.5, "used": 2.5, "size": 3}

RESPONSE = {
    **OBJECT, "id": "resp", "status": "queued", "hidden": False, "previous": "resp_0",
    "conversation": "conv", "before": 7, "upstream": "chat", "upstream_id": "up", "worker": "w",
    "lease": 4.5, "input": b"input", "body": b"body", "log": b"log",
}  # fmt: skip

ROWS: dict[str, dict[str, Any]] = {
    "responses": RESPONSE,
    "events": {"owner": "o", "response": "resp", "first": 0, "last": 4, "data": b"events"},
    "items": {"owner": "o", "id": "item", "response": "resp"},
    "conversations": {
        **OBJECT, "id": "conv", "metadata": b"metadata", "holder": "turn", "lease": 4.5,
    },
    "conversation_items": {
        "number": 7, "owner": "o", "conversation": "conv", "id": "msg", "data": b"data",
    },
    "completions": {
        **OBJECT, "number": 8, "id": "chat", "model": "m", "metadata": b"metadata",
        "messages": b"messages", "body": b"body",
    },
    "thoughts": {"owner": "o", "id": "position", "used": 2.5, "size": 3, "data": b"sealed"},
    "models": {
        "name": "m", "version": "v", "created": 1.5, "modified": 2.5, "told": b"public",
        "sealed": "secret",
    },
    "generations": {"name": "models", "number": 9},
    "gone": {"owner": "o", "holder": "conv", "id": "msg_0", "number": 6, "at": 1.5},
    "chores": {"name": "pruning", "due": 1.5},
}  # fmt: skip
"""A row of each table of version 0.1, with a value in each column."""

ADDED = {"responses": {"request": None, "attempt": None}}
"""The values of existing rows in new columns."""


def load_table(connection: sa.Connection, name: str) -> sa.Table:
    return sa.Table(name, sa.MetaData(), autoload_with=connection)


def add_rows(connection: sa.Connection, rows: dict[str, dict[str, Any]]) -> None:
    for name, row in rows.items():
        connection.execute(sa.insert(load_table(connection, name)).values(row))


def read_rows(connection: sa.Connection, name: str) -> list[dict[str, Any]]:
    rows = connection.execute(sa.select(load_table(connection, name))).mappings()
    return [dict(row) for row in rows]


def list_tables(connection: sa.Connection) -> set[str]:
    return {
        name
        for name in sa.inspect(connection).get_table_names()
        if name != "alembic_version" and not name.startswith("vector_store_words")
    }


def test_upgrade_keeps_all_rows_of_version_0_1(connection: sa.Connection) -> None:
    assert list_tables(connection) == set(ROWS)
    add_rows(connection, ROWS)

    migrate(connection)

    assert read_version(connection) == LATEST_VERSION
    for name, row in ROWS.items():
        assert read_rows(connection, name) == [{**row, **ADDED.get(name, {})}]


def test_workers_of_version_0_1_can_write_after_the_upgrade(connection: sa.Connection) -> None:
    migrate(connection)

    add_rows(connection, ROWS)
    assert read_rows(connection, "responses") == [{**RESPONSE, **ADDED["responses"]}]
    connection.exec_driver_sql("DELETE FROM responses")
    assert read_rows(connection, "items") == []


def test_upgrade_creates_the_tables(connection: sa.Connection) -> None:
    migrate(connection)

    assert v0012_version_0_2.down_revision == v0006_version_0_1.revision
    assert list_tables(connection) - set(ROWS) == {
        "owner_keys", "files", "file_parts", "vector_stores", "vector_store_batches",
        "vector_store_files", "vector_store_chunks", "usage_hours", "client_keys",
    }  # fmt: skip
    columns = sa.inspect(connection).get_columns("owner_keys")
    assert [column["name"] for column in columns] == ["name", "created", "sealed"]


def test_upgrade_creates_a_full_text_index(connection: sa.Connection) -> None:
    migrate(connection)

    query = {
        "sqlite": "SELECT count(*) FROM vector_store_words",
        "postgresql": "SELECT count(words) FROM vector_store_chunks",
    }[connection.dialect.name]
    assert connection.exec_driver_sql(query).scalar() == 0


def test_files_in_vector_stores_may_have_no_payer(connection: sa.Connection) -> None:
    migrate(connection)

    columns = sa.inspect(connection).get_columns("vector_store_files")
    assert [each["nullable"] for each in columns if each["name"] == "payer"] == [True]


def test_table_of_usage_has_the_columns_of_the_counts(connection: sa.Connection) -> None:
    migrate(connection)

    inspector = sa.inspect(connection)
    columns = [each["name"] for each in inspector.get_columns("usage_hours")]
    assert columns == [*UsageKey._fields, *UsageCounts._fields]
    key = inspector.get_pk_constraint("usage_hours")["constrained_columns"]
    assert key == list(UsageKey._fields)


def test_table_of_client_keys_has_the_columns_of_a_key(connection: sa.Connection) -> None:
    migrate(connection)

    described = sa.inspect(connection).get_columns("client_keys")
    columns = {column["name"]: bool(column["nullable"]) for column in described}
    assert list(columns) == list(ClientKeyRow._fields)
    assert [name for name in columns if columns[name]] == [
        "previous_digest", "previous_until", "expires", "revoked", "last_used",
    ]  # fmt: skip
