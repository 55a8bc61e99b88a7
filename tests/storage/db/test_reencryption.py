"""After a key rotation the old secret decrypts no stored value."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import sqlalchemy as sa

from forwarder.core.encryption import SEAL_PREFIX, TokenCipher
from forwarder.storage.db import reasoning, reencryption, registered_models
from forwarder.storage.db.compression import pack_json, unpack_json
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.registered_models import ModelRow
from forwarder.storage.db.tables import completions, events, metadata
from forwarder.storage.db.tables import responses as response_table
from forwarder.storage.reasoning_cache import DatabaseBackend

OLD, NEW, BOTH = TokenCipher(["old"]), TokenCipher(["new"]), TokenCipher(["new", "old"])
SEALED = OLD.encrypt({"text": "Hm"})
ITEM = {"type": "reasoning", "id": "rs_1", "encrypted_content": SEALED, "summary": []}


UNENCRYPTED_COLUMNS = {
    "conversations.metadata",
    "completions.metadata",
    "file_parts.data",
    "vector_stores.metadata",
    "vector_store_files.attributes",
    "vector_store_chunks.bits",
    "vector_store_chunks.vector",
    "models.told",
    "client_keys.limits",
}
"""Binary columns that contain no values encrypted for clients."""


def test_all_binary_columns_are_reencrypted_or_contain_nothing_encrypted() -> None:
    encrypted = {
        f"{each.table.name}.{name}"
        for each in reencryption.ENCRYPTED_COLUMNS
        for name in each.columns
    }
    binary = {
        str(column)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.LargeBinary)
    }
    assert binary - encrypted == UNENCRYPTED_COLUMNS


def add_response(connection: sa.Connection, name: str, body: Any, request_input: Any) -> None:
    connection.execute(
        sa.insert(response_table).values(
            owner="o", id=name, created=1.0, used=1.0, size=1, status="completed", hidden=False,
            input=pack_json(request_input), body=pack_json(body),
        )
    )  # fmt: skip


def store_rows(connection: sa.Connection) -> None:
    add_response(connection, "resp_1", {"output": [ITEM]}, [{"nested": [ITEM]}])
    add_response(connection, "resp_2", {"output": []}, ["fwd1.not ours", 7])
    connection.execute(
        sa.insert(events).values(owner="o", response="resp_1", first=0, last=1,
                                 data=pack_json([{"type": "x", "item": ITEM}]))
    )  # fmt: skip
    first = pack_json([{"type": "x", "item": ITEM}])
    connection.execute(
        sa.update(response_table).where(response_table.c.id == "resp_1").values(log=first)
    )
    connection.execute(
        sa.insert(completions).values(
            owner="o", id="c", created=1.0, used=1.0, size=1, model="m", metadata=pack_json({}),
            messages=pack_json([{"content": SEALED}]), body=pack_json({"plain": True}),
        )
    )  # fmt: skip


def read_everything(connection: sa.Connection) -> list[Any]:
    values = [*connection.execute(sa.select(response_table.c.input, response_table.c.body))]
    values += connection.execute(
        sa.select(response_table.c.log).where(response_table.c.log.is_not(None))
    )
    values += connection.execute(sa.select(events.c.data))
    values += connection.execute(sa.select(completions.c.messages, completions.c.body))
    return [unpack_json(data) for row in values for data in row]


def test_all_encrypted_columns_are_reencrypted(database: SqliteDatabase) -> None:
    database.write(store_rows)

    done = reencryption.reencrypt_all(database, BOTH.reencrypt, BOTH.reencrypt)

    assert done == reencryption.ReencryptionReport(0, 3, [])
    database_text = str(database.read(read_everything))
    assert SEALED not in database_text
    assert "fwd1.not ours" in database_text
    [item] = database.read(read_everything)[1]["output"]
    assert NEW.decrypt(item["encrypted_content"]) == {"text": "Hm"}
    assert {**item, "encrypted_content": SEALED} == ITEM


def test_background_requests_are_reencrypted(database: SqliteDatabase) -> None:
    def queue(connection: sa.Connection) -> None:
        add_response(connection, "resp_1", {"output": []}, [])
        connection.execute(sa.update(response_table).values(request=SEALED))

    database.write(queue)
    assert reencryption.reencrypt_all(database, BOTH.reencrypt, BOTH.reencrypt).rows == 1
    sealed = database.read(lambda c: c.scalar(sa.select(response_table.c.request)))
    assert NEW.decrypt(str(sealed)) == {"text": "Hm"}
    assert OLD.decrypt(str(sealed)) is None


def test_model_keys_are_reencrypted_and_lost_ones_reported(
    database: SqliteDatabase,
) -> None:
    for name, sealer in (("a", OLD), ("b", NEW), ("c", TokenCipher(["lost"]))):
        row = ModelRow(name, "v", 1.0, 1.0, {}, sealer.encrypt({"key": name}))
        database.write(partial(registered_models.put, row=row))
    database.write(partial(registered_models.put, row=ModelRow("d", "v", 1.0, 1.0, {}, None)))

    done = reencryption.reencrypt_all(database, BOTH.reencrypt, BOTH.reencrypt)

    assert (done.models, done.lost_models) == (2, ["c"])
    rows = {row.name: row.sealed for row in database.read(registered_models.list_models)}
    assert [NEW.decrypt(str(rows[name])) for name in "abc"] == [{"key": "a"}, {"key": "b"}, None]
    assert rows["d"] is None
    assert OLD.decrypt(str(rows["a"])) is None


def test_concurrent_key_change_is_kept(database: SqliteDatabase) -> None:
    before, after = ModelRow("a", "v1", 1.0, 1.0, {}, OLD.encrypt("before")), NEW.encrypt("after")
    database.write(partial(registered_models.put, row=before))

    def rotating_late(connection: sa.Connection) -> None:
        def renew(sealed: str) -> str | None:
            registered_models.put(connection, before._replace(version="v2", sealed=after))
            return BOTH.reencrypt(sealed)

        reencryption.reencrypt_model_keys(connection, renew)

    database.write(rotating_late)

    assert [row.sealed for row in database.read(registered_models.list_models)] == [after]


def test_rotation_of_several_batches(database: SqliteDatabase) -> None:
    def add_responses(connection: sa.Connection) -> None:
        for number in range(reencryption.MAX_REWRITTEN_ROWS + 5):
            add_response(connection, f"resp_{number}", {"output": [ITEM]}, [])

    database.write(add_responses)

    assert (
        reencryption.reencrypt_all(database, BOTH.reencrypt, BOTH.reencrypt).rows
        == reencryption.MAX_REWRITTEN_ROWS + 5
    )


def test_cached_reasoning_is_reencrypted(database: SqliteDatabase) -> None:
    owner, key, other = b"o" * 16, b"k" * 16, b"x" * 16
    DatabaseBackend(database, OLD, 60).store(owner, {key: b'{"text":"Hm"}'})
    DatabaseBackend(database, TokenCipher(["lost"]), 60).store(owner, {other: b"1"})

    done = reencryption.reencrypt_all(database, BOTH.reencrypt, BOTH.reencrypt)

    assert done == reencryption.ReencryptionReport(0, 1, [])
    for sealer, expected in ((NEW, {key: b'{"text":"Hm"}'}), (OLD, {})):
        assert DatabaseBackend(database, sealer, 60).find(owner, [key, other]) == expected
    rows = database.read(lambda c: reasoning.find(c, owner.hex(), [key.hex()], 0.0))
    assert OLD.decrypt(rows[key.hex()].data.decode()) is None


def test_files_contain_no_value_under_the_old_secret(database: SqliteDatabase) -> None:
    database.write(store_rows)
    row = ModelRow("gone", "v", 1.0, 1.0, {}, OLD.encrypt({"key": "sk-gone"}))
    database.write(partial(registered_models.put, row=row))
    database.write(partial(registered_models.remove, name="gone"))
    database.write(partial(registered_models.put, row=row._replace(name="a")))
    DatabaseBackend(database, OLD, 60).store(b"o", {b"k": b'"Hm"'})
    assert SEALED.encode() in read_database_files(database)

    reencryption.reencrypt_all(database, BOTH.reencrypt, BOTH.reencrypt)

    sealed_values = re.findall(
        re.escape(SEAL_PREFIX) + r"[\w=-]{40,}", read_database_files(database).decode("latin-1")
    )
    assert sealed_values
    assert [sealed for sealed in sealed_values if OLD.decrypt(sealed) is not None] == []


def read_database_files(database: SqliteDatabase) -> bytes:
    """Return the database file and its write-ahead log."""
    files = database.path.parent.glob(database.path.name + "*")
    return b"".join(file.read_bytes() for file in files)
