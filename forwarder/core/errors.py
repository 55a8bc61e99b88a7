"""All errors that the forwarder reports, grouped by the side that caused them.

    ForwarderError
      ClientError                 the request cannot be served
        InvalidRequest            400  malformed, of the wrong type, or contradictory
          MediaUnavailable        400  a URL or id in the request cannot be fetched
        Unsupported               400  valid, but the other side cannot carry it
        Unauthorized              401  no valid key
        Forbidden                 403  access from this address is not allowed
        NotFound                  404  no such model, route or object
        MethodNotAllowed          405  the route exists, the method does not
        BodyTimeout               408  the body did not arrive in time
        TooLarge                  413  the body exceeds the limit
        UnsupportedEncoding       415  unknown Content-Encoding of the body
        UpgradeRefused            426  no WebSocket on this route
        ConversationLocked        400  another turn of the conversation is running
        RateLimited               429  the client has used up its limit
        QuotaExceeded             429  the client has used up the budget of its key
        ClientDisconnected        499  the client did not wait for its answer; only logged
      UpstreamError               the upstream failed
        UpstreamRefused           its own status: it answered with an error
        UpstreamKeyRefused        403  it does not accept the forwarder's key
        UpstreamMisconfigured     502  there is no API at its base URL
        UpstreamUnreachable       502  no connection, or the connection broke
        UpstreamProtocolError     502  its answer violates the protocol
          UpstreamMalformedEvent  502  one of its events could not be read
        UpstreamTimeout           504  it did not answer in time
          UpstreamConnectTimeout  504  no connection in time
        UpstreamUnavailable       503  its circuit breaker is open
      Overloaded                  503  more concurrent requests than the operator allows
      RateLimitsUnavailable       503  the rate limits cannot be checked
      StoreUnavailable            503  the store cannot be written or read
      ShuttingDown                503  the process ends before the answer does
      InternalError               500  a bug in the forwarder

Each error has the HTTP ``status`` and the OpenAI-shaped ``make_body()`` that both protocols use.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from forwarder.core.error_classification import classify
from forwarder.core.error_kinds import ErrorKind

_NO_RETRY_HEADERS = {"X-Should-Retry": "false"}
"""For configuration mistakes: the same request would fail again."""


MAX_QUOTED_CHARACTERS = 200
"""Characters of a client's value that a message quotes."""


def shorten_value(value: object) -> str:
    """Return a value as text for a message; long values are cut."""
    text = str(value)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


class ForwarderError(Exception):
    """A failure with an HTTP status and an OpenAI-shaped body.

    If an answer took several upstream requests, ``usage`` has the tokens of those that succeeded.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    param: str | None = None
    default_headers: Mapping[str, str] = {}
    usage: dict[str, Any] | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        # The path may contain names that the client chose.
        if param is not None and len(param) > MAX_QUOTED_CHARACTERS:
            message = message.replace(param, shorten_value(param))
            param = shorten_value(param)
        super().__init__(message)
        self.message = message
        self.param = param if param is not None else self.param
        self.code = code if code is not None else self.code
        self.headers = dict(self.default_headers)

    @property
    def log_detail(self) -> str | None:
        """The text to log beside the code; None if the message may quote a request."""
        return None

    def make_error_object(self) -> dict[str, Any]:
        """Return the inner error object: ``{message, type, param, code}``."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }

    def make_body(self) -> dict[str, Any]:
        """Return the whole error body: ``{"error": {…}}``."""
        return {"error": self.make_error_object()}


class ClientError(ForwarderError):
    """The request cannot be served."""

    status = 400
    type = "invalid_request_error"


class InvalidRequest(ClientError):
    """The request is malformed, of the wrong type, or contradicts itself."""


class MediaUnavailable(InvalidRequest):
    """The URLs or ids ``names`` in the request cannot be fetched."""

    code = "unfetchable_url"

    def __init__(
        self, message: str, *, param: str, names: Collection[str], code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.names = frozenset(names)


class Unsupported(ClientError):
    """The request is valid, but the other side has no way to carry it."""

    code = "unsupported_parameter"


class Unauthorized(ClientError):
    """No valid client key."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    """Access from this address is not allowed, with any key."""

    status = 403
    code = "forbidden"


class NotFound(ClientError):
    """No such model, route or object."""

    status = 404
    code = "not_found"


class MethodNotAllowed(ClientError):
    """The route exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class BodyTimeout(ClientError):
    """The request body did not arrive in time."""

    status = 408
    code = "request_timeout"


class TooLarge(ClientError):
    """The request body exceeds the configured limit."""

    status = 413
    code = "request_too_large"


class UnsupportedEncoding(ClientError):
    """The Content-Encoding of the request body is not supported."""

    status = 415
    code = "unsupported_content_encoding"

    def __init__(self, message: str, accepted: str) -> None:
        super().__init__(f"{message} Accepted: {accepted}.")
        self.headers = {"Accept-Encoding": accepted}


class UpgradeRefused(ClientError):
    """The client requested a protocol upgrade on a route that only speaks HTTP."""

    status = 426
    code = "upgrade_required"


class ConversationLocked(ClientError):
    """Another turn of the conversation is running; the client can retry in a moment."""

    code = "conversation_locked"
    param = "conversation"

    def __init__(self) -> None:
        super().__init__(
            "Another process is currently operating on this conversation. "
            "Please retry in a few seconds."
        )
        # OpenAI's status is 400, which its clients retry only with this header.
        self.headers = {"Retry-After": "1", "X-Should-Retry": "true"}


class RateLimited(ClientError):
    """The client has used up its limit of ``requests`` or ``tokens``."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.type = kind


class QuotaExceeded(ClientError):
    """The client has used up the budget of its key; repeating the request does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    default_headers = _NO_RETRY_HEADERS


class ClientDisconnected(ClientError):
    """The client disconnected before its answer was complete; this is not a failure."""

    status = 499
    code = "client_left"

    def __init__(self) -> None:
        super().__init__("The client closed the connection before it had its answer.")


class UpstreamError(ForwarderError):
    """The upstream failed."""

    status = 502
    type = "upstream_error"


class UpstreamRefused(UpstreamError):
    """The upstream answered with an error; the client gets its message.

    The client also gets its status and code, unless the error is of a known kind
    (``error_kinds``): then it gets OpenAI's status and code, because client programs act on them.
    ``status`` is None if the error came inside a 200 response.  ``headers`` are the response
    headers that help a client, such as ``retry-after``.
    """

    def __init__(
        self, status: int | None, error: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        classified = classify(status, error)
        super().__init__(str(error.get("message") or f"The upstream answered {classified.status}."))
        self.kind: ErrorKind | None = classified.kind
        self.status = classified.status
        self.type = classified.type or infer_error_type(classified.status)
        self.code = classified.code
        self.param = _text(error.get("param"))
        self.extra = {k: v for k, v in error.items() if k not in self.make_error_object()}
        self.headers = dict(headers or {})

    def make_body(self) -> dict[str, Any]:
        return {"error": {**self.make_error_object(), **self.extra}}


class UpstreamKeyRefused(UpstreamError):
    """The upstream does not accept the forwarder's key."""

    status = 403  # clients retry a 502, and would relate a 401 to their own key
    code = "upstream_authentication"
    default_headers = _NO_RETRY_HEADERS


class UpstreamMisconfigured(UpstreamError):
    """There is no API at the upstream's base URL."""

    code = "upstream_base_url"
    default_headers = _NO_RETRY_HEADERS

    @property
    def log_detail(self) -> str:
        return self.message


class UpstreamUnreachable(UpstreamError):
    """No connection to the upstream, or the connection broke."""

    code = "upstream_unreachable"

    @property
    def log_detail(self) -> str:
        return self.message


class UpstreamProtocolError(UpstreamError):
    """The upstream's answer violates its protocol."""

    code = "upstream_protocol"


class UpstreamMalformedEvent(UpstreamProtocolError):
    """An event of the upstream could not be read: a bug of the upstream or of the forwarder."""


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    status = 504
    code = "upstream_timeout"

    @property
    def log_detail(self) -> str:
        return self.message


class UpstreamConnectTimeout(UpstreamTimeout):
    """No connection was established in time, so the upstream did not receive the request."""


class UpstreamUnavailable(UpstreamError):
    """The upstream was not called because its circuit breaker is open."""

    status = 503
    code = "upstream_unavailable"

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.headers = make_retry_after(seconds)


class Overloaded(ForwarderError):
    """More concurrent requests than the operator allows, in total or for one upstream."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, seconds: float = 1) -> None:
        super().__init__(message)
        self.headers = make_retry_after(seconds)


class RateLimitsUnavailable(ForwarderError):
    """The rate limits cannot be checked because their storage is down."""

    status = 503
    code = "limits_unknown"


class StoreUnavailable(ForwarderError):
    """The store cannot be written or read."""

    status = 503
    code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__("The forwarder's store does not answer. Please retry.")
        self.headers = {"retry-after": "1"}


class ShuttingDown(ForwarderError):
    """The process ends before the answer does; another process can serve the request."""

    status = 503
    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("The forwarder is being restarted. Please retry.")
        self.headers = {"retry-after": "1"}


class InternalError(ForwarderError):
    """A bug in the forwarder; only the log has the traceback."""

    code = "internal_error"


def make_retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def infer_error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
