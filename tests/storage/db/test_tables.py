"""Rules that hold for all tables, and the ids that they can store."""

from __future__ import annotations

from forwarder.storage.db.tables import (
    MAX_ID_BYTES,
    MAX_IDS_PER_STATEMENT,
    is_valid_id,
    metadata,
    split_batches,
)
from tests.helpers.check_cases import check_each

OPERATOR_TABLES = (
    "chores", "client_keys", "generations", "models", "owner_keys", "usage_hours",
)  # fmt: skip
"""Tables that belong to the operator, not to a client."""


def test_every_table_of_clients_begins_with_its_owner() -> None:
    for table in metadata.tables.values():
        keys = [set(key.columns.keys()) for key in (table.primary_key, *table.constraints)]
        assert table.name in OPERATOR_TABLES or any("owner" in key for key in keys), table.name


@check_each(
    ("name", "valid"),
    [
        ("msg_1", True),
        ("", True),
        ("x" * MAX_ID_BYTES, True),
        ("x" * (MAX_ID_BYTES + 1), False),
        ("€" * (MAX_ID_BYTES // 3), True),
        ("€" * (MAX_ID_BYTES // 3 + 1), False),
        ("a\0b", False),
        ("\0", False),
    ],
)
def test_ids_are_short_and_have_no_nul(name: str, valid: bool) -> None:
    assert is_valid_id(name) is valid


def test_batches_contain_each_name_once() -> None:
    names = [str(number) for number in range(MAX_IDS_PER_STATEMENT + 1)]

    assert list(split_batches([*names, *names])) == [names[:-1], names[-1:]]
    assert list(split_batches([])) == []
