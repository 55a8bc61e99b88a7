"""Uploads: once for each content, and deletion after expiry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from forwarder.context.request_context import RequestContext
from forwarder.core.cancellation import CancelToken
from forwarder.core.data_urls import Blob
from forwarder.core.errors import UpstreamRefused
from forwarder.core.translation_context import LossReport
from forwarder.middleware.media.uploads import UploadCache

CLIENT = RequestContext("req_1", "chat", LossReport())
A = Blob(b"a", "text/plain", "a.txt")
B = Blob(b"b", "text/plain", "b.txt")


class Store:
    """An upstream that numbers the files it gets."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.uploads: list[tuple[Blob, str | None]] = []
        self.deleted: list[tuple[str, str | None]] = []
        self.fails = 0
        self._seconds = seconds

    def upload(self, blob: Blob, client_key: str | None, token: CancelToken) -> str:
        time.sleep(self._seconds)
        if self.fails:
            self.fails -= 1
            raise UpstreamRefused(500, {})
        self.uploads.append((blob, client_key))
        return f"file-{len(self.uploads)}"

    def delete_file(self, file_id: str, client_key: str | None) -> None:
        self.deleted.append((file_id, client_key))
        if self.fails:
            raise UpstreamRefused(404, {"message": "no such file"})


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_content_is_uploaded_once_regardless_of_name() -> None:
    store = Store()
    uploads = UploadCache(store, 60)

    ids = [uploads.get_file_id(blob, CLIENT) for blob in (A, B, A, A._replace(name="other"))]

    assert ids == ["file-1", "file-2", "file-1", "file-1"]
    assert store.uploads == [(A, None), (B, None)]


def test_keys_do_not_share_files() -> None:
    store = Store()
    uploads = UploadCache(store, 60)

    assert uploads.get_file_id(A, CLIENT, "one") != uploads.get_file_id(A, CLIENT, "two")
    assert [key for _, key in store.uploads] == ["one", "two"]


def test_concurrent_requests_upload_once() -> None:
    store = Store(0.1)
    uploads = UploadCache(store, 60)
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.append(uploads.get_file_id(A, CLIENT)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ids == ["file-1"] * 5
    assert len(store.uploads) == 1


def test_failed_upload_is_retried() -> None:
    store = Store()
    store.fails = 1
    uploads = UploadCache(store, 60)

    with pytest.raises(UpstreamRefused):
        uploads.get_file_id(A, CLIENT)
    assert uploads.get_file_id(A, CLIENT) == "file-1"


def test_expired_file_is_deleted_with_its_key() -> None:
    store = Store()
    uploads = UploadCache(store, 0.05)
    uploads.get_file_id(A, CLIENT, "key")

    assert wait_for(lambda: store.deleted == [("file-1", "key")])
    assert uploads.get_file_id(A, CLIENT, "key") == "file-2"


def test_used_file_is_not_deleted() -> None:
    store = Store()
    uploads = UploadCache(store, 0.3)
    uploads.get_file_id(B, CLIENT)
    for _ in range(6):
        uploads.get_file_id(A, CLIENT)
        time.sleep(0.06)

    assert wait_for(lambda: bool(store.deleted))
    assert store.deleted == [("file-1", None)]
    assert uploads.get_file_id(A, CLIENT) == "file-2"


def test_least_recently_used_file_is_deleted_first() -> None:
    store = Store()
    uploads = UploadCache(store, 60, max_files=2)
    for blob in (A, B, A, Blob(b"c", "text/plain")):
        uploads.get_file_id(blob, CLIENT)

    assert wait_for(lambda: store.deleted == [("file-2", None)])
    assert uploads.get_file_id(A, CLIENT) == "file-1"


def test_failed_deletion_removes_the_cache_entry(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    uploads = UploadCache(store, 60)
    uploads.get_file_id(A, CLIENT)
    store.fails = 1
    uploads._max_age = 0.0

    uploads.sweep()

    assert store.deleted == [("file-1", None)]
    (record,) = caplog.records
    assert record.msg == {"event": "upload_delete_failed", "reason": "404"}
    store.fails = 0
    assert uploads.get_file_id(A, CLIENT) == "file-2"


def test_closed_cache_deletes_no_files() -> None:
    store = Store()
    uploads = UploadCache(store, 0.05)
    uploads.get_file_id(A, CLIENT)
    thread_count = threading.active_count()
    uploads.close()
    assert wait_for(lambda: threading.active_count() == thread_count - 1)
    uploads.get_file_id(B, CLIENT)
    time.sleep(0.1)

    assert store.deleted == []
