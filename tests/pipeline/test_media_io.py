"""The media functions of an attempt: which upstream receives, returns and stores files."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.pipeline.dry_run import DryRun
from forwarder.pipeline.media_io import build_dry_media_io, build_media_io
from forwarder.services import ReplayOverrides, Services
from tests.helpers.check_cases import check_each


class Files:
    """Two upstreams; records where files are uploaded and downloaded."""

    def __init__(self, **environment: str) -> None:
        self.calls: list[str] = []
        self.failures = 0
        settings = Settings.from_env(
            {
                "FORWARDER_UPSTREAMS": "one,two",
                "ONE_BASE_URL": "http://one.test/v1",
                "TWO_BASE_URL": "http://two.test/v1",
                "ONE_API": "chat",
                "TWO_API": "responses",
                "FORWARDER_DATABASE_URL": "none",
                **environment,
            }
        )
        transport = httpx2.MockTransport(self._answer)
        self.services = Services.build(settings, ReplayOverrides(transport))
        self.context = RequestContext("req_1", "chat", LossReport())

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        self.calls.append(f"{request.method} {request.url.host}{request.url.path}")
        if self.failures:
            self.failures -= 1
            return httpx2.Response(503, headers={"retry-after-ms": "1"}, json={})
        if request.url.path.endswith("/content"):
            return httpx2.Response(200, content=b"pdf")
        return httpx2.Response(
            200, json={"id": "file-1", "object": "file", "filename": "a.pdf", "bytes": 3}
        )


@pytest.fixture
def files() -> Iterator[Files]:
    new_files = Files()
    yield new_files
    new_files.services.close()


def test_a_file_is_uploaded_once_to_the_upstream_of_the_route(files: Files) -> None:
    route = files.services.router.resolve("one/m", "chat")
    media_io = build_media_io(files.services, route, files.context)
    blob = Blob(b"x", "application/pdf", "a.pdf")

    assert [media_io.upload(blob, "messages"), media_io.upload(blob, "messages")] == ["file-1"] * 2
    assert files.calls == ["POST one.test/v1/files"]


def test_a_failed_upload_is_retried() -> None:
    files = Files(ONE_MAX_RETRIES="1")
    files.failures = 1
    route = files.services.router.resolve("one/m", "chat")
    media_io = build_media_io(files.services, route, files.context)

    assert media_io.upload(Blob(b"x", "application/pdf", "a.pdf"), "messages") == "file-1"
    assert len(files.calls) == 2
    assert files.context.retries == 1
    files.services.close()


def test_a_file_is_downloaded_from_the_upstream_that_keeps_files(files: Files) -> None:
    assert files.services.router.default_file_upstream == "two"
    route = files.services.router.resolve("one/m", "chat")
    media_io = build_media_io(files.services, route, files.context)

    assert media_io.download("file-1", "messages").data == b"pdf"
    assert {each.partition("/")[0] for each in files.calls} == {"GET two.test"}
    assert not media_io.knows_ids


def test_the_upstream_that_keeps_files_knows_their_ids(files: Files) -> None:
    route = files.services.router.resolve("two/m", "responses")

    assert build_media_io(files.services, route, files.context).knows_ids


def test_a_stored_file_is_read_for_its_owner(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    files = Files(FORWARDER_FILES="store", FORWARDER_DATABASE_URL=url, FORWARDER_FETCH_MAX="5")
    services, context = files.services, files.context
    owner = services.owners.find_owner(context.client_key)
    small, large = (
        services.require_files().upload(owner, BytesIO(data), len(data), "a.txt", "user_data").id
        for data in (b"hello", b"hello!")
    )
    other_context = RequestContext("req_2", "chat", LossReport(), client_key="other")

    with services:
        route = services.router.resolve("one/m", "chat")
        read = build_media_io(services, route, context).read_stored
        read_as_stranger = build_media_io(services, route, other_context).read_stored
        assert read is not None
        assert read_as_stranger is not None
        assert read(small, "at") == Blob(b"hello", "text/plain", "a.txt")
        assert read("file-none", "at") is None
        assert read_as_stranger(small, "at") is None
        with pytest.raises(InvalidRequest) as raised:
            read(large, "messages[0].content[0].file.file_id")
        assert raised.value.param == "messages[0].content[0].file.file_id"
    assert files.calls == []


def test_without_stored_files_none_is_read(files: Files) -> None:
    route = files.services.router.resolve("one/m", "chat")
    assert build_media_io(files.services, route, files.context).read_stored is None


@check_each("keys", ["", "k"])
def test_urls_are_fetched_only_for_clients_with_keys(keys: str) -> None:
    files = Files(FORWARDER_API_KEYS=keys)
    route = files.services.router.resolve("one/m", "chat")
    media_io = build_media_io(files.services, route, files.context)
    run = DryRun(lambda request: pytest.fail("a request was sent"))
    dry_media_io = build_dry_media_io(files.services, route, run, files.context)

    assert (media_io.fetch is not None, dry_media_io.fetch is not None) == (bool(keys), bool(keys))
    assert dry_media_io.upload(Blob(b"x", "application/pdf", "a.pdf"), "messages")
    assert files.calls == []
    files.services.close()


def test_urls_are_fetched_as_soon_as_clients_need_keys(tmp_path: Path) -> None:
    environment = {"FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db"}
    context = RequestContext("req_1", "chat", LossReport())
    with Services.build(Settings.from_env(environment)) as services:
        route = services.router.resolve("chat/m", "chat")
        assert build_media_io(services, route, context).fetch is None
        services.client_keys.create({"name": "alice"})
        assert build_media_io(services, route, context).fetch is not None
