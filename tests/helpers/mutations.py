"""Copies of JSON documents with one wrong value, for tests of requests and answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

WRONG: tuple[Any, ...] = (None, 0, "", "wrong", True, [], [1], {}, {"a": 1})
"""One value of each JSON type, empty and not."""


def list_wrong_copies(document: Any, values: Iterable[Any] = WRONG) -> Iterator[Any]:
    """Yield copies of ``document`` with one value, at any depth, replaced or removed."""
    entries = _list_entries(document)
    for key, inner in entries:
        for value in values:
            yield _replace_entry(document, key, value)
        for copy in list_wrong_copies(inner, values):
            yield _replace_entry(document, key, copy)
        yield _remove_entry(document, key)


def _list_entries(document: Any) -> list[tuple[Any, Any]]:
    if isinstance(document, dict):
        return list(document.items())
    return list(enumerate(document)) if isinstance(document, list) else []


def _replace_entry(document: Any, key: Any, value: Any) -> Any:
    copy = document.copy()
    copy[key] = value
    return copy


def _remove_entry(document: Any, key: Any) -> Any:
    copy = document.copy()
    del copy[key]
    return copy


def list_null_copies(document: Any) -> Iterator[Any]:
    """Yield copies of ``document`` with one field, at any depth, null or missing."""
    for key, inner in _list_entries(document):
        if isinstance(document, dict):
            yield _replace_entry(document, key, None)
            yield _remove_entry(document, key)
        for copy in list_null_copies(inner):
            yield _replace_entry(document, key, copy)
