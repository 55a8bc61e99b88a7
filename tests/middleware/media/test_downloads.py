"""Downloads of an upstream's files."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from forwarder.core.data_urls import Blob
from forwarder.core.errors import (
    InvalidRequest,
    MediaUnavailable,
    UpstreamKeyRefused,
    UpstreamRefused,
)
from forwarder.middleware.media.downloads import FileResponse, download
from tests.helpers.check_cases import check_each

PNG = b"\x89PNG\r\n\x1a\n"


def make_download(*pieces: bytes, kind: str = "") -> Callable[[str], FileResponse]:
    def get(path: str) -> FileResponse:
        assert path == "/files/file-1/content"
        return SimpleNamespace(headers={"content-type": kind}, chunks=iter(pieces))

    return get


@check_each("kind", ["", "image/png", "application/octet-stream", "image/png; q=1"])
def test_download_joins_chunks_and_detects_the_type(kind: str) -> None:
    blob = download(make_download(PNG[:3], PNG[3:], kind=kind), "file-1", "p", 8)

    assert blob == Blob(PNG, "image/png")


def test_download_stops_at_the_size_limit() -> None:
    def yield_pieces():  # type: ignore[no-untyped-def]
        yield PNG
        yield PNG
        raise AssertionError("read on")

    with pytest.raises(InvalidRequest) as caught:
        download(lambda _: SimpleNamespace(headers={}, chunks=yield_pieces()), "file-1", "p.q", 15)

    assert caught.value.param == "p.q"
    assert "too large" in caught.value.message


def make_failing_get(error: Exception) -> Callable[[str], FileResponse]:
    def get(path: str) -> FileResponse:
        raise error

    return get


@check_each("status", [400, 403, 404, 405])
def test_unavailable_file_is_a_client_error(status: int) -> None:
    with pytest.raises(MediaUnavailable) as caught:
        download(make_failing_get(UpstreamRefused(status, {})), "file-1", "p.q", 8)

    assert (caught.value.param, caught.value.names) == ("p.q", {"file-1"})
    assert caught.value.code == "invalid_value"


@check_each("error", [UpstreamRefused(429, {}), UpstreamKeyRefused("no")])
def test_other_failures_are_upstream_errors(error: Exception) -> None:
    with pytest.raises(type(error)):
        download(make_failing_get(error), "file-1", "p.q", 8)
