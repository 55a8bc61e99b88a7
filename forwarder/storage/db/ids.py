"""Ids that every kind of database can store and index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MAX_ID_BYTES = 1024
"""PostgreSQL refuses rows of an index above 2,700 bytes; owners and holders stand in them too."""

MAX_IDS_PER_STATEMENT = 5000
"""How many names one statement may have; SQLite takes 32,766 parameters, PostgreSQL 65,535."""


def is_valid_id(name: str) -> bool:
    """Whether an id can be stored: PostgreSQL's texts hold no NUL."""
    return len(name) <= MAX_ID_BYTES and "\0" not in name and len(name.encode()) <= MAX_ID_BYTES


def split_batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Different names, as many together as one statement may have."""
    ordered = list(dict.fromkeys(names))
    for start in range(0, len(ordered), MAX_IDS_PER_STATEMENT):
        yield ordered[start : start + MAX_IDS_PER_STATEMENT]
