"""Annotations of a text: how chat nests them, and what becomes of their positions."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json

Insertions = list[tuple[int, int]]
"""``(position, length)`` of what was put into a text, the position in the text without any of it.
Lengths and positions are in characters."""


def nest_annotation(annotation: Json) -> Json:
    """An annotation as chat nests it: ``{"type": t, t: {…}}``."""
    kind = annotation.get("type")
    if not isinstance(kind, str) or kind in annotation:
        return annotation
    return {"type": kind, kind: {k: v for k, v in annotation.items() if k != "type"}}


def shift_annotation(annotation: Any, insertions: Insertions) -> Any:
    """An annotation, nested or flat, whose positions count what was put into the text as well."""
    if not isinstance(annotation, dict):
        return annotation
    kind = annotation.get("type")
    if isinstance(kind, str) and isinstance(annotation.get(kind), dict):
        return {**annotation, kind: shift_annotation(annotation[kind], insertions)}
    moved: Json = {}
    start, end = annotation.get("start_index"), annotation.get("end_index")
    if isinstance(start, int):
        moved["start_index"] = start + sum(length for at, length in insertions if at <= start)
    if isinstance(end, int):  # what follows the last character is not within
        after = end + sum(length for at, length in insertions if at < end)
        moved["end_index"] = max(after, moved.get("start_index", 0))
    return {**annotation, **moved}
