"""Valid ids."""

from __future__ import annotations

import pytest

from forwarder.storage.db.ids import MAX_ID_BYTES, MAX_IDS_PER_STATEMENT, is_valid_id, split_batches


@pytest.mark.parametrize(
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
