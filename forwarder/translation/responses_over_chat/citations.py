"""Annotations as chat upstreams nest them -> the flat ones of a Responses text part."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Json

_SPAN: Json = {"start_index": 0, "end_index": 0}
_FILE: Json = {"file_id": "", "filename": ""}

_ANNOTATION_FIELDS: dict[str, Json] = {
    "url_citation": {**_SPAN, "title": "", "url": ""},
    "file_citation": {**_FILE, "index": 0},
    "container_file_citation": {**_SPAN, **_FILE, "container_id": ""},
    "file_path": {"file_id": "", "index": 0},
}
"""Type of annotation -> the fields that it must have, and what stands for a missing one."""


class CitationBuffer:
    """The annotations of one answer, until there is a text to tell them with."""

    def __init__(self) -> None:
        self._known: list[Json] = []  # some vendors repeat them
        self.waiting: list[Json] = []

    def add_annotations(self, annotations: Any) -> None:
        """Those of one chunk."""
        for given in annotations if isinstance(annotations, list) else ():
            annotation = flatten_annotation(given)
            if annotation is not None and annotation not in self._known:
                self._known.append(annotation)
                self.waiting.append(annotation)

    def pop_annotations(self, offset: int) -> list[Json]:
        """Those that wait, for a text that begins ``offset`` characters into the answer."""
        given, self.waiting = self.waiting, []
        return [move_annotation(annotation, offset) for annotation in given]


def flatten_annotation(annotation: Any) -> Json | None:
    """One annotation without its wrapper; ``None`` for what the Responses API does not know."""
    kind = annotation.get("type") if isinstance(annotation, dict) else None
    blank = _ANNOTATION_FIELDS.get(kind) if isinstance(kind, str) else None
    if blank is None:
        return None
    inner = annotation.get(kind)
    said = inner if isinstance(inner, dict) else annotation  # some vendors do not nest them
    return {"type": kind, **{k: _of_type(said.get(k), v) for k, v in blank.items()}}


def move_annotation(annotation: Json, offset: int) -> Json:
    """The annotation of a text that begins ``offset`` characters into the answer."""
    if not offset:
        return annotation
    ends = {name: max(0, annotation[name] - offset) for name in _SPAN if name in annotation}
    return {**annotation, **ends}


def _of_type(value: Any, blank: Any) -> Any:
    return value if type(value) is type(blank) else blank
