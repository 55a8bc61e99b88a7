"""Files of an upstream: uploads, and requests below its base URL that are passed through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import httpx2

from forwarder.context.redaction import redact_headers
from forwarder.context.request_context import RequestContext
from forwarder.core.cancellation import CancellationScope, CancelToken
from forwarder.core.data_urls import Blob
from forwarder.core.types import Json
from forwarder.upstream.connection import UpstreamConnection
from forwarder.upstream.response import select_client_headers
from forwarder.upstream.sdk_client import RAW_STREAM


class MultipartForm(NamedTuple):
    """A form with files: ``fields`` as text; ``files`` as field and (name, content, type)."""

    fields: Mapping[str, str]
    files: list[tuple[str, tuple[str, IO[bytes], str]]]


class PassthroughResponse(NamedTuple):
    """An answer that is passed through unchanged; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class UpstreamFiles:
    """The files of one upstream."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection

    def upload(self, blob: Blob, client_key: str | None, token: CancelToken) -> str:
        """Store a file for the client of ``token``; return the upstream's id of it."""
        with self._connection.errors, CancellationScope(token):
            file = self._connection.sdk.files.create(
                file=(blob.name or "file", blob.data, blob.type),
                purpose="user_data",
                extra_headers=self._connection.build_auth_headers(client_key),
            )
        return file.id

    def delete_file(self, file_id: str, client_key: str | None) -> None:
        """Delete a stored file."""
        with self._connection.errors:
            headers = self._connection.build_auth_headers(client_key)
            self._connection.sdk.files.delete(file_id, extra_headers=headers)

    def passthrough(
        self,
        method: str,
        path: str,
        query: Json,
        context: RequestContext,
        content: MultipartForm | Json | None = None,
    ) -> PassthroughResponse:
        """Send a GET, POST or DELETE below the base URL; the answer is closed with ``context``.

        ``content`` is a form, or a value to send as JSON.
        """
        connection = self._connection
        headers = {**connection.build_headers(context), "Accept": "*/*"}
        arguments: Json = {}
        if isinstance(content, MultipartForm):
            headers["Content-Type"] = "multipart/form-data"
            arguments |= {"body": content.fields, "files": content.files}
        elif content is not None:
            arguments["body"] = content
        if method != "DELETE":  # the SDK cannot return an unread answer to a DELETE
            arguments |= {"stream": True, "stream_cls": RAW_STREAM}
        send: Any = getattr(connection.sdk, method.lower())
        options: Json = {"headers": headers, "params": query}
        if content is not None:
            options["timeout"] = connection.unstreamed_timeout
        with connection.errors, CancellationScope(context):
            response = send(path, cast_to=httpx2.Response, options=options, **arguments)
        context.cleanup.add(response.close)
        client_headers = select_client_headers(response.headers)
        context.reply_headers = redact_headers(client_headers, connection.settings)
        latin = "latin-1"  # WSGI's encoding of headers keeps their bytes unchanged
        answer_headers = {k.decode(latin).lower(): v.decode(latin) for k, v in response.headers.raw}
        answer_headers = redact_headers(answer_headers, connection.settings)
        return PassthroughResponse(
            response.status_code, answer_headers, self._iter_chunks(response)
        )

    def _iter_chunks(self, response: httpx2.Response) -> Iterator[bytes]:
        with self._connection.errors:
            yield from response.iter_bytes()
