"""Requests that the console's pages send to the application itself.

Such a request is authenticated as the signed-in operator. Otherwise it is handled like a client's
request: limited, counted, captured and logged. A private key of the WSGI environment marks it.
Clients cannot set this key, since the keys of their headers start with ``HTTP_``.
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
"""WSGI keys that are copied from the page's request: the operator's address, and the connection, so
that the marked request is cancelled when the browser disconnects."""


@dataclass(frozen=True)
class OperatorCall:
    """Marks a request that the operator sends from a page.

    ``client_key`` is the key of the client on whose behalf the operator sends it: upstreams that
    get the clients' own keys receive it, and stored data belongs to it. ``make_recorder`` creates
    the recorder of the request.
    """

    client_key: str | None
    make_recorder: Callable[[RequestContext, RequestHead], Recorder]

    def make_environ(
        self, origin: Request, path: str, body: bytes, headers: Mapping[str, str]
    ) -> WSGIEnvironment:
        """Return the WSGI environment of the marked request.

        ``origin`` is the page's request. ``path`` may have a query, and ``body`` is JSON.
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
    """Return the marker of a request, or None for a client's request."""
    call: OperatorCall | None = flask_request.environ.get(_CALL)
    return call
