"""Requests that the operator's pages send to the application itself.

Such a request runs as any other one: it is authenticated as the signed-in operator, and then
counts, waits, is captured and logged like the requests of clients. A private key of the WSGI
environment marks it, which no client can set: names of headers have the prefix ``HTTP_`` there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from flask import Request
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from forwarder.context.capture_recorder import Recorder, RequestHead
from forwarder.context.request_context import RequestContext

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_CALL = "forwarder.operator_call"
"""WSGI environment key of an `OperatorCall`."""

_INHERITED = ("REMOTE_ADDR", "gunicorn.socket")
"""Parts of the operator's own request: its address, and its connection, so that the request is
cancelled when the browser leaves."""


@dataclass(frozen=True)
class OperatorCall:
    """The marker of a request of the operator.

    ``client_key`` is the key of the client for which the request is made: upstreams that get the
    clients' own keys receive it, and stored data belongs to it. ``make_recorder`` creates the
    recorder of the request.
    """

    client_key: str | None
    make_recorder: Callable[[RequestContext, RequestHead], Recorder]

    def make_environ(
        self, origin: Request, path: str, body: bytes, headers: Mapping[str, str]
    ) -> WSGIEnvironment:
        """Return the WSGI environment of a marked request, which the request ``origin`` causes.

        ``path`` may have a query, and ``body`` is JSON.
        """
        inherited = {name: origin.environ[name] for name in _INHERITED if name in origin.environ}
        builder = EnvironBuilder(
            path=path,
            method="POST",
            base_url=origin.host_url,
            headers=Headers(headers),
            input_stream=BytesIO(body),  # shares the bytes, unlike ``data``
            content_length=len(body),
            content_type="application/json",
            environ_overrides={**inherited, _CALL: self},
        )
        return builder.get_environ()


def find_operator_call(flask_request: Request) -> OperatorCall | None:
    """Return the call that caused a request, or None for the request of a client."""
    call: OperatorCall | None = flask_request.environ.get(_CALL)
    return call
