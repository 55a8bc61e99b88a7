"""Annotations of a text: Chat's nested form, and positions after an insertion into the text."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json

Insertions = list[tuple[int, int]]
"""``(position, length)`` of each insertion into a text, in characters.  Positions refer to the text
before all insertions."""


def nest_annotation(annotation: Json) -> Json:
    """Convert a flat annotation to Chat's form, ``{"type": t, t: {…}}``."""
    kind = annotation.get("type")
    if not isinstance(kind, str) or kind in annotation:
        return annotation
    return {"type": kind, kind: {k: v for k, v in annotation.items() if k != "type"}}


def shift_annotation(annotation: Any, insertions: Insertions) -> Any:
    """Move the positions of an annotation, nested or flat, to the text after the insertions."""
    if not isinstance(annotation, dict):
        return annotation
    kind = annotation.get("type")
    if isinstance(kind, str) and isinstance(annotation.get(kind), dict):
        return {**annotation, kind: shift_annotation(annotation[kind], insertions)}
    positions: Json = {}
    start, end = annotation.get("start_index"), annotation.get("end_index")
    if isinstance(start, int):
        positions["start_index"] = start + sum(length for at, length in insertions if at <= start)
    if isinstance(end, int):  # an insertion directly behind the last character is outside
        new_end = end + sum(length for at, length in insertions if at < end)
        positions["end_index"] = max(new_end, positions.get("start_index", 0))
    return {**annotation, **positions}
