"""Annotations nested as chat upstreams send them -> flat annotations of a Responses text part."""

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
"""Type of annotation -> its required fields, with a default for each."""


class CitationBuffer:
    """Buffers the annotations of one answer until a text is open that can carry them."""

    def __init__(self) -> None:
        self._known: list[Json] = []  # some vendors repeat them
        self.waiting: list[Json] = []

    def add_annotations(self, annotations: Any) -> None:
        """Add the annotations of one chunk; repeated and unknown ones are skipped."""
        for nested in annotations if isinstance(annotations, list) else ():
            annotation = flatten_annotation(nested)
            if annotation is not None and annotation not in self._known:
                self._known.append(annotation)
                self.waiting.append(annotation)

    def pop_annotations(self, offset: int) -> list[Json]:
        """Return and remove all annotations, for a text that begins at ``offset`` of the answer."""
        waiting, self.waiting = self.waiting, []
        return [move_annotation(annotation, offset) for annotation in waiting]


def flatten_annotation(annotation: Any) -> Json | None:
    """Return the annotation without its wrapper, ``None`` if the Responses API has no such type."""
    kind = annotation.get("type") if isinstance(annotation, dict) else None
    blank = _ANNOTATION_FIELDS.get(kind) if isinstance(kind, str) else None
    if blank is None:
        return None
    inner = annotation.get(kind)
    source = inner if isinstance(inner, dict) else annotation  # some vendors do not nest them
    fields = {
        name: value if type(value := source.get(name)) is type(default) else default
        for name, default in blank.items()
    }
    return {"type": kind, **fields}


def move_annotation(annotation: Json, offset: int) -> Json:
    """Convert positions in the answer to positions in a text that begins at ``offset``."""
    if not offset:
        return annotation
    ends = {name: max(0, annotation[name] - offset) for name in _SPAN if name in annotation}
    return {**annotation, **ends}
