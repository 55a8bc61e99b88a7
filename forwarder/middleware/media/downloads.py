"""Downloads a file that a request names by id, for a target that accepts only file data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from forwarder.core.data_urls import Blob, detect_type
from forwarder.core.errors import InvalidRequest, MediaUnavailable, UpstreamRefused

_REFUSED_STATUSES = (400, 403, 404, 405)
"""Statuses of an upstream without the file, without a file API, or with private files."""


class FileResponse(Protocol):
    """An upstream's streamed response; header names are in lower case."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def chunks(self) -> Iterator[bytes]: ...


def download(get: Callable[[str], FileResponse], file_id: str, path: str, limit: int) -> Blob:
    """Download a file of at most ``limit`` bytes; ``path`` is its location in the request.

    ``get`` requests a path below the upstream's base URL. Raises MediaUnavailable if the upstream
    does not provide the file, InvalidRequest if it is too large, and the errors of ``get``.
    """
    try:
        answer = get(f"/files/{file_id}/content")
    except UpstreamRefused as refusal:
        if refusal.status not in _REFUSED_STATUSES:
            raise
        reason = "the upstream does not provide this file; send its data instead"
        raise MediaUnavailable(
            explain_failure(path, reason), param=path, names={file_id}, code="invalid_value"
        ) from refusal
    buffer = bytearray()
    for piece in answer.chunks:
        buffer += piece
        if len(buffer) > limit:
            message = explain_failure(path, "the file is too large")
            raise InvalidRequest(message, param=path, code="invalid_value")
    data = bytes(buffer)
    declared = answer.headers.get("content-type", "").partition(";")[0].strip()
    return Blob(data, detect_type(data, declared, None))


def explain_failure(path: str, reason: str) -> str:
    return f"Invalid value for '{path}': {reason}."
