"""Every way to spoil one value of a JSON document, for tests of what is sent and received."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

WRONG: tuple[Any, ...] = (None, 0, "", "wrong", True, [], [1], {}, {"a": 1})
"""One value of each JSON type, empty and not."""


def spoiled(document: Any, values: Iterable[Any] = WRONG) -> Iterator[Any]:
    """Copies of ``document`` in which one value, at any depth, is another; one is missing too."""
    entries = _entries(document)
    for key, inner in entries:
        for value in values:
            yield _with(document, key, value)
        for changed in spoiled(inner, values):
            yield _with(document, key, changed)
        yield _without(document, key)


def _entries(document: Any) -> list[tuple[Any, Any]]:
    if isinstance(document, dict):
        return list(document.items())
    return list(enumerate(document)) if isinstance(document, list) else []


def _with(document: Any, key: Any, value: Any) -> Any:
    changed = document.copy()
    changed[key] = value
    return changed


def _without(document: Any, key: Any) -> Any:
    changed = document.copy()
    del changed[key]
    return changed


def nulled(document: Any) -> Iterator[Any]:
    """Copies of ``document`` in which one field, at any depth, is null or missing."""
    for key, inner in _entries(document):
        if isinstance(document, dict):
            yield _with(document, key, None)
            yield _without(document, key)
        for changed in nulled(inner):
            yield _with(document, key, changed)
