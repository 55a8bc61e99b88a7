"""Files of an upstream: uploads, deletions, and requests that are passed through."""

from __future__ import annotations

import io

import httpx2
import pytest

from forwarder.context.request_context import RequestContext
from forwarder.core.cancellation import is_client_waiting
from forwarder.core.data_urls import Blob
from forwarder.core.errors import UpstreamRefused, UpstreamUnreachable
from forwarder.core.translation_context import LossReport
from forwarder.upstream.files import MultipartForm
from tests.upstream.sending import KEY, Provider, make_refusing_provider, make_upstream


def make_context() -> RequestContext:
    return RequestContext(id="req_1", route="files", loss_report=LossReport())


def test_a_file_is_uploaded_with_its_name_and_type() -> None:
    provider = Provider(lambda _: httpx2.Response(200, json={"id": "file-1"}))

    file_id = make_upstream(provider).files.upload(
        Blob(b"abc", "text/plain", "a.txt"), None, make_context()
    )

    [request] = provider.requests
    assert file_id == "file-1"
    assert (request.method, request.url.path) == ("POST", "/v1/files")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert b'filename="a.txt"' in request.content
    assert b"abc" in request.content
    assert b"user_data" in request.content


def test_an_upload_ends_when_its_client_disconnects() -> None:
    context = make_context()

    def disconnect(_: httpx2.Request) -> httpx2.Response:
        assert is_client_waiting()
        context.cancel()
        assert not is_client_waiting()
        raise httpx2.ReadError("the client has left")

    with pytest.raises(UpstreamUnreachable):
        make_upstream(Provider(disconnect)).files.upload(Blob(b"a", "text/plain"), None, context)
    assert is_client_waiting()


def test_a_file_is_deleted_by_its_id() -> None:
    provider = Provider(lambda _: httpx2.Response(200, json={"id": "file-1", "deleted": True}))

    make_upstream(provider).files.delete_file("file-1", None)

    [request] = provider.requests
    assert (request.method, request.url.path) == ("DELETE", "/v1/files/file-1")


def test_refusal_of_a_file_is_an_upstream_error() -> None:
    files = make_upstream(make_refusing_provider(413, json={"error": {"message": "too big"}})).files

    with pytest.raises(UpstreamRefused, match="too big"):
        files.upload(Blob(b"abc", "text/plain"), None, make_context())
    with pytest.raises(UpstreamRefused, match="too big"):
        files.delete_file("file-1", None)


def test_an_answer_is_passed_through_without_secrets() -> None:
    headers = {"X-Request-Id": "up-1", "X-Echo": KEY, "Content-Type": "text/plain"}
    provider = make_refusing_provider(200, content=b"the file", headers=headers)
    context = make_context()

    answer = make_upstream(provider).files.passthrough(
        "GET", "/files/file-1/content", {"a": "b"}, context
    )

    assert b"".join(answer.chunks) == b"the file"
    assert (answer.status, answer.headers["content-type"]) == (200, "text/plain")
    assert answer.headers["x-echo"] == "***"
    assert context.reply_headers == {"x-upstream-request-id": "up-1"}
    assert provider.requests[0].url.raw_path == b"/v1/files/file-1/content?a=b"


def test_a_form_is_sent_as_multipart() -> None:
    provider = Provider(lambda _: httpx2.Response(200, json={"id": "file-1"}))
    form = MultipartForm({"purpose": "user_data"}, [("file", ("a.txt", io.BytesIO(b"abc"), "x/y"))])

    make_upstream(provider).files.passthrough("POST", "/files", {}, make_context(), form)

    [request] = provider.requests
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="purpose"' in request.content
    assert b'filename="a.txt"' in request.content


def test_a_connection_that_breaks_in_the_body_is_an_upstream_error() -> None:
    class Body(httpx2.SyncByteStream):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield b"half"
            raise httpx2.ReadError("broken")

    provider = Provider(lambda _: httpx2.Response(200, stream=Body()))
    answer = make_upstream(provider).files.passthrough("GET", "/files/x", {}, make_context())

    with pytest.raises(UpstreamUnreachable):
        b"".join(answer.chunks)
