"""What is told of an answer's text at its end: citations, and the files that came of it.

A citation's positions count from where the whole text begins.  A file is told once, however often
it is cited, with the link under which the client can fetch it.

An answer that is cut has its end where the translator does not see it.  There, all that is known is
told as it comes, each with its position, in a field that goes no further than to who cuts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.core.types import Json
from forwarder.protocols.annotations import nest_annotation, shift_annotation

_FILE_ANNOTATIONS = frozenset({"file_citation", "file_path", "container_file_citation"})
"""Annotations that name a file: chat's own know nothing but URLs."""

SIDE_DATA = "notes"
"""The field of a delta, which has nothing else, for who cuts: what `SideData.placement` gives."""

_FILE_ID = re.compile(r"\w[\w.:-]*", re.ASCII)


class SideData:
    """The annotations and files of one answer; ``make_client_url`` makes an address of an upstream's path."""

    def __init__(self, make_client_url: Callable[[str], str]) -> None:
        self._make_client_url = make_client_url
        self._annotations: dict[Any, list[Json]] = {}  # place of a text -> its own
        self._end_positions: dict[Any, list[int]] = {}  # place of a text -> where they end
        self._files: dict[Any, Json] = {}
        self._first_positions: dict[Any, int] = {}  # key of a file -> where it is told of first

    def __contains__(self, place: Any) -> bool:
        return place in self._annotations

    def add_annotation(
        self, place: Any, annotation: Any, before: int, text_length: int = 0
    ) -> None:
        """Keep an annotation of a text that has ``before`` characters in front of it.

        It stands at the end of what was ``text_length`` unless it names its position.
        """
        if not isinstance(annotation, dict):
            return
        notes = self._annotations.setdefault(place, [])
        end = annotation.get("end_index", annotation.get("index"))
        at = before + end if type(end) is int else text_length
        if annotation.get("type") in _FILE_ANNOTATIONS:
            self._add_file(annotation, at)
        else:
            placed = complete_citation(shift_annotation(annotation, [(0, before)]), at)
            notes.append(nest_annotation(placed))
            self._end_positions.setdefault(place, []).append(at)

    def add_output_images(self, outputs: Any, text_length: int = 0) -> None:
        """Keep the images that running code has drawn when so much was ``text_length``."""
        for output in outputs or ():
            if output.get("type") == "image" and output.get("url"):
                self._files.setdefault(output["url"], {"url": output["url"]})
                self._first_positions.setdefault(output["url"], text_length)

    def _add_file(self, annotation: Json, at: int) -> None:
        given = ((name, annotation.get(name)) for name in ("file_id", "filename", "container_id"))
        file = {name: value for name, value in given if isinstance(value, str) and value}
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
        """All of them, in the order of their texts."""
        return [note for notes in self._annotations.values() for note in notes]

    @property
    def files(self) -> list[Json]:
        """Each ``{file_id, filename, container_id, url}``, as far as known."""
        return list(self._files.values())

    @property
    def placement(self) -> Json:
        """``{annotations, files}``, each a list of ``[characters up to its end, what it is]``."""
        ends = [end for ends in self._end_positions.values() for end in ends]
        annotations = zip(ends, self.annotations, strict=True)
        files = ((self._first_positions[key], dict(file)) for key, file in self._files.items())
        return {"annotations": list(map(list, annotations)), "files": list(map(list, files))}


def complete_citation(annotation: Json, at: int) -> Json:
    """A citation of a URL with all its fields; xAI sends some without a position or a title."""
    if annotation.get("type") != "url_citation" or "url_citation" in annotation:
        return annotation
    given = {k: v for k, v in annotation.items() if v is not None}
    return {"start_index": given.get("end_index", at), "end_index": at, "title": "", **given}


def make_file_path(file: Json) -> str:
    """Where the upstream has a file; empty when its ids are none that stand in a path."""
    steps = [("containers", file["container_id"])] if "container_id" in file else []
    steps.append(("files", file["file_id"]))
    if not all(_FILE_ID.fullmatch(name) for _, name in steps):
        return ""
    return "".join(f"/{room}/{name}" for room, name in steps) + "/content"
