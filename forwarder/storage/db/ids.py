"""Constraints on ids that every supported database can store and index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_ID_BYTES = 1024
"""PostgreSQL limits index rows to 2,700 bytes, which also contain the owner and the holder."""

MAX_IDS_PER_STATEMENT = 5000
"""Maximum number of ids in one statement. SQLite allows 32,766 parameters, PostgreSQL 65,535."""


def is_valid_id(name: str) -> bool:
    """Whether an id can be stored. PostgreSQL text cannot contain NUL."""
    return len(name) <= MAX_ID_BYTES and "\0" not in name and len(name.encode()) <= MAX_ID_BYTES


def split_batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield the distinct names in batches of `MAX_IDS_PER_STATEMENT`."""
    ordered = list(dict.fromkeys(names))
    for start in range(0, len(ordered), MAX_IDS_PER_STATEMENT):
        yield ordered[start : start + MAX_IDS_PER_STATEMENT]
