"""Citations and files of an answer, which a chat client gets after the text.

The positions of citations count from the start of the whole text.  A file is listed once, even if
it is cited several times, with the URL at which the client can fetch it.

If later middleware cuts the answer, the translation does not know where the text ends.  Then it
sends all side data known so far, with positions, after each change.  It uses the internal delta
field ``SIDE_DATA``, which the middleware that cuts the answer removes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.chat_responses_mappings import nest_annotation, shift_annotation

_FILE_ANNOTATIONS = frozenset({"file_citation", "file_path", "container_file_citation"})
"""Annotations that name a file.  OpenAI's chat annotations name only URLs."""

SIDE_DATA = "notes"
"""The internal delta field for middleware that cuts answers; a delta with it has no other field.

Its value is ``SideData.placement`` with ``metadata``.
"""

_FILE_ID = re.compile(r"\w[\w.:-]*", re.ASCII)


class SideData:
    """The annotations and files of one answer.

    ``make_client_url`` turns a path of the upstream into a URL for the client.
    """

    def __init__(self, make_client_url: Callable[[str], str]) -> None:
        self._make_client_url = make_client_url
        self._annotations: dict[Any, list[Json]] = {}  # place of a text -> its annotations
        self._end_positions: dict[Any, list[int]] = {}  # place of a text -> their end positions
        self._files: dict[Any, Json] = {}
        self._first_positions: dict[Any, int] = {}  # key of a file -> its first citation's end

    def __contains__(self, place: Any) -> bool:
        return place in self._annotations

    def add_annotation(
        self, place: Any, annotation: Any, before: int, text_length: int = 0
    ) -> None:
        """Add an annotation of the text at ``place``, which follows ``before`` other characters.

        An annotation without a position is placed at ``text_length``, the end of the text so far.
        """
        if not isinstance(annotation, dict):
            return
        annotations = self._annotations.setdefault(place, [])
        end = annotation.get("end_index", annotation.get("index"))
        at = before + end if type(end) is int else text_length
        if annotation.get("type") in _FILE_ANNOTATIONS:
            self._add_file(annotation, at)
        else:
            citation = complete_citation(shift_annotation(annotation, [(0, before)]), at)
            annotations.append(nest_annotation(citation))
            self._end_positions.setdefault(place, []).append(at)

    def add_output_images(self, outputs: Any, text_length: int = 0) -> None:
        """Add the images that the code interpreter drew after ``text_length`` characters."""
        for output in outputs or ():
            if output.get("type") == "image" and output.get("url"):
                self._files.setdefault(output["url"], {"url": output["url"]})
                self._first_positions.setdefault(output["url"], text_length)

    def _add_file(self, annotation: Json, at: int) -> None:
        fields = ((name, annotation.get(name)) for name in ("file_id", "filename", "container_id"))
        file = {name: value for name, value in fields if isinstance(value, str) and value}
        if "file_id" not in file:
            return
        key = (file.get("container_id"), file["file_id"])
        known = self._files.setdefault(key, file)
        self._first_positions[key] = min(at, self._first_positions.get(key, at))
        known |= {name: value for name, value in file.items() if name not in known}
        if path := make_file_path(known):
            known["url"] = self._make_client_url(path)

    @property
    def annotations(self) -> list[Json]:
        """All annotations, in the order of their texts."""
        return [each for annotations in self._annotations.values() for each in annotations]

    @property
    def files(self) -> list[Json]:
        """All files, each ``{file_id, filename, container_id, url}`` as far as known."""
        return list(self._files.values())

    @property
    def placement(self) -> Json:
        """``{annotations, files}``, each a list of ``[end position, annotation or file]``."""
        ends = [end for ends in self._end_positions.values() for end in ends]
        annotations = zip(ends, self.annotations, strict=True)
        files = ((self._first_positions[key], dict(file)) for key, file in self._files.items())
        return {"annotations": list(map(list, annotations)), "files": list(map(list, files))}


def complete_citation(annotation: Json, at: int) -> Json:
    """Fill in the missing fields of a URL citation: xAI omits the position or the title."""
    if annotation.get("type") != "url_citation" or "url_citation" in annotation:
        return annotation
    fields = {k: v for k, v in annotation.items() if v is not None}
    return {"start_index": fields.get("end_index", at), "end_index": at, "title": "", **fields}


def make_file_path(file: Json) -> str:
    """Return the upstream's path of a file; ``""`` if one of its ids is not safe in a path."""
    steps = [("containers", file["container_id"])] if "container_id" in file else []
    steps.append(("files", file["file_id"]))
    if not all(_FILE_ID.fullmatch(name) for _, name in steps):
        return ""
    return "".join(f"/{collection}/{name}" for collection, name in steps) + "/content"
