"""Files that an upstream has, brought here for a place that takes only the data itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from forwarder.core.data_urls import Blob, detect_type
from forwarder.core.errors import InvalidRequest, MediaUnavailable, UpstreamRefused

_REFUSED_STATUSES = (400, 403, 404, 405)
"""How an upstream says that it has no such file, has no files, or does not give this one out."""


class FileResponse(Protocol):
    """An upstream's answer that is being read; its headers are in lower case."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def chunks(self) -> Iterator[bytes]: ...


def download(get: Callable[[str], FileResponse], file_id: str, path: str, limit: int) -> Blob:
    """The file of an id, of at most ``limit`` bytes; ``path`` is where the request names it.

    ``get`` asks the upstream for something below its base URL.  Raises NotFetched when there is no
    such file, InvalidRequest when there is too much of it, and what ``get`` does.
    """
    try:
        answer = get(f"/files/{file_id}/content")
    except UpstreamRefused as refusal:
        if refusal.status not in _REFUSED_STATUSES:
            raise
        said = explain_failure(path, "the upstream gives out no such file; send its data")
        raise MediaUnavailable(said, param=path, names={file_id}, code="invalid_value") from refusal
    held = bytearray()
    for piece in answer.chunks:
        held += piece
        if len(held) > limit:
            raise invalid_file(path, "the file is too large")
    data = bytes(held)
    declared = answer.headers.get("content-type", "").partition(";")[0].strip()
    return Blob(data, detect_type(data, declared, None))


def invalid_file(path: str, reason: str) -> InvalidRequest:
    return InvalidRequest(explain_failure(path, reason), param=path, code="invalid_value")


def explain_failure(path: str, reason: str) -> str:
    return f"Invalid value for '{path}': {reason}."
