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
from forwarder.protocols.annotations import nested, shifted

_CITED = frozenset({"file_citation", "file_path", "container_file_citation"})
"""Annotations that name a file: chat's own know nothing but URLs."""

NOTES = "notes"
"""The field of a delta, which has nothing else, for who cuts: what `Notes.placed` gives."""

_ID = re.compile(r"\w[\w.:-]*", re.ASCII)


class Notes:
    """The annotations and files of one answer; ``link`` makes an address of an upstream's path."""

    def __init__(self, link: Callable[[str], str]) -> None:
        self._link = link
        self._annotations: dict[Any, list[Json]] = {}  # place of a text -> its own
        self._ends: dict[Any, list[int]] = {}  # place of a text -> where they end
        self._files: dict[Any, Json] = {}
        self._firsts: dict[Any, int] = {}  # key of a file -> where it is told of first

    def __contains__(self, place: Any) -> bool:
        return place in self._annotations

    def add(self, place: Any, annotation: Any, before: int, said: int = 0) -> None:
        """Keep an annotation of a text that has ``before`` characters in front of it.

        It stands at the end of what was ``said`` unless it names its position.
        """
        if not isinstance(annotation, dict):
            return
        notes = self._annotations.setdefault(place, [])
        end = annotation.get("end_index", annotation.get("index"))
        at = before + end if type(end) is int else said
        if annotation.get("type") in _CITED:
            self._cite(annotation, at)
        else:
            placed = _complete_citation(shifted(annotation, [(0, before)]), at)
            notes.append(nested(placed))
            self._ends.setdefault(place, []).append(at)

    def add_outputs(self, outputs: Any, said: int = 0) -> None:
        """Keep the images that running code has drawn when so much was ``said``."""
        for output in outputs or ():
            if output.get("type") == "image" and output.get("url"):
                self._files.setdefault(output["url"], {"url": output["url"]})
                self._firsts.setdefault(output["url"], said)

    def _cite(self, annotation: Json, at: int) -> None:
        given = ((name, annotation.get(name)) for name in ("file_id", "filename", "container_id"))
        file = {name: value for name, value in given if isinstance(value, str) and value}
        if "file_id" not in file:
            return
        key = (file.get("container_id"), file["file_id"])
        known = self._files.setdefault(key, file)
        self._firsts[key] = min(at, self._firsts.get(key, at))
        known |= {name: value for name, value in file.items() if name not in known}
        if path := _path(known):
            known["url"] = self._link(path)

    @property
    def annotations(self) -> list[Json]:
        """All of them, in the order of their texts."""
        return [note for notes in self._annotations.values() for note in notes]

    @property
    def files(self) -> list[Json]:
        """Each ``{file_id, filename, container_id, url}``, as far as known."""
        return list(self._files.values())

    @property
    def placed(self) -> Json:
        """``{annotations, files}``, each a list of ``[characters up to its end, what it is]``."""
        ends = [end for ends in self._ends.values() for end in ends]
        annotations = zip(ends, self.annotations, strict=True)
        files = ((self._firsts[key], dict(file)) for key, file in self._files.items())
        return {"annotations": list(map(list, annotations)), "files": list(map(list, files))}


def _complete_citation(annotation: Json, at: int) -> Json:
    """A citation of a URL with all its fields; xAI sends some without a position or a title."""
    if annotation.get("type") != "url_citation" or "url_citation" in annotation:
        return annotation
    given = {k: v for k, v in annotation.items() if v is not None}
    return {"start_index": given.get("end_index", at), "end_index": at, "title": "", **given}


def _path(file: Json) -> str:
    """Where the upstream has a file; empty when its ids are none that stand in a path."""
    steps = [("containers", file["container_id"])] if "container_id" in file else []
    steps.append(("files", file["file_id"]))
    if not all(_ID.fullmatch(name) for _, name in steps):
        return ""
    return "".join(f"/{room}/{name}" for room, name in steps) + "/content"
