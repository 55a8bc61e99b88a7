"""What kinds of hosted tools know of the client of a request, and may ask the layers above."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from forwarder.core.types import Json


class FilePassage(NamedTuple):
    """A passage that was found; ``score`` is from 0 to 1."""

    file_id: str
    filename: str
    score: float
    attributes: Json
    text: str


SearchFiles = Callable[[str], list[FilePassage]]
"""Searches the stores of one tool; the argument is the query. Raises ForwarderError."""

PrepareFileSearch = Callable[[Json, str], SearchFiles]
"""Validates a ``file_search`` tool at a path of the request. Raises InvalidRequest."""


class ToolClient(NamedTuple):
    """The client of a request.

    ``account`` identifies it to the fetcher of pages. ``prepare_file_search`` is ``None`` if no
    files are stored here.
    """

    account: str = ""
    prepare_file_search: PrepareFileSearch | None = None
