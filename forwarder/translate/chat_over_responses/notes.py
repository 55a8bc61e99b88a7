"""What is told of an answer's text at its end: citations, and the files that came of it.

A citation's positions count from where the whole text begins.  A file is told once, however often
it is cited, with the link under which the client can fetch it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.translate.annotations import nested, shifted
from forwarder.translate.call import Json

_CITED = frozenset({"file_citation", "file_path", "container_file_citation"})
"""Annotations that name a file: chat's own know nothing but URLs."""

_ID = re.compile(r"\w[\w.:-]*", re.ASCII)


class Notes:
    """The annotations and files of one answer; ``link`` makes an address of an upstream's path."""

    def __init__(self, link: Callable[[str], str]) -> None:
        self._link = link
        self._annotations: dict[Any, list[Json]] = {}  # place of a text -> its own
        self._files: dict[Any, Json] = {}

    def __contains__(self, place: Any) -> bool:
        return place in self._annotations

    def add(self, place: Any, annotation: Any, before: int) -> None:
        """Keep an annotation of a text that has ``before`` characters in front of it."""
        if not isinstance(annotation, dict):
            return
        notes = self._annotations.setdefault(place, [])
        if annotation.get("type") in _CITED:
            self._cite(annotation)
        else:
            notes.append(nested(shifted(annotation, [(0, before)])))

    def add_outputs(self, outputs: Any) -> None:
        """Keep the images that running code has drawn."""
        for output in outputs or ():
            if output.get("type") == "image" and output.get("url"):
                self._files.setdefault(output["url"], {"url": output["url"]})

    def _cite(self, annotation: Json) -> None:
        given = ((name, annotation.get(name)) for name in ("file_id", "filename", "container_id"))
        file = {name: value for name, value in given if isinstance(value, str) and value}
        if "file_id" not in file:
            return
        known = self._files.setdefault((file.get("container_id"), file["file_id"]), file)
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


def _path(file: Json) -> str:
    """Where the upstream has a file; empty when its ids are none that stand in a path."""
    steps = [("containers", file["container_id"])] if "container_id" in file else []
    steps.append(("files", file["file_id"]))
    if not all(_ID.fullmatch(name) for _, name in steps):
        return ""
    return "".join(f"/{room}/{name}" for room, name in steps) + "/content"
