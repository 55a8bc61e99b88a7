"""Files that an upstream has, brought here for a place that takes only the data itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from forwarder.core.data_urls import Blob, type_of
from forwarder.core.errors import InvalidRequest, NotFetched, UpstreamRefused

_NOT_GIVEN = (400, 403, 404, 405)
"""How an upstream says that it has no such file, has no files, or does not give this one out."""


class Passed(Protocol):
    """An upstream's answer that is being read; its headers are in lower case."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def pieces(self) -> Iterator[bytes]: ...


def download(get: Callable[[str], Passed], file_id: str, path: str, limit: int) -> Blob:
    """The file of an id, of at most ``limit`` bytes; ``path`` is where the request names it.

    ``get`` asks the upstream for something below its base URL.  Raises NotFetched when there is no
    such file, InvalidRequest when there is too much of it, and what ``get`` does.
    """
    try:
        answer = get(f"/files/{file_id}/content")
    except UpstreamRefused as refusal:
        if refusal.status not in _NOT_GIVEN:
            raise
        said = _told(path, "the upstream gives out no such file; send its data")
        raise NotFetched(said, param=path, names={file_id}, code="invalid_value") from refusal
    held = bytearray()
    for piece in answer.pieces:
        held += piece
        if len(held) > limit:
            raise _invalid(path, "the file is too large")
    data = bytes(held)
    declared = answer.headers.get("content-type", "").partition(";")[0].strip()
    return Blob(data, type_of(data, declared, None))


def _invalid(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(_told(path, reason), param=path, code="invalid_value")


def _told(path: str, reason: str) -> str:
    return f"Invalid value for '{path}': {reason}."
