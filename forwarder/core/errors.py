"""Every failure the forwarder can report, named by whose fault it is.

    ForwarderError
      ClientError                 the request cannot be served as it stands
        InvalidRequest            400  malformed, of the wrong type, or contradictory
          MediaUnavailable        400  it names by URL or id what cannot be had
        Unsupported               400  understood, but neither side can carry it
        Unauthorized              401  no valid key
        Forbidden                 403  not from there
        NotFound                  404  no such model, route or object
        MethodNotAllowed          405  the route exists, the method does not
        BodyTimeout               408  the body did not arrive in time
        TooLarge                  413  the body is over the limit
        UnsupportedEncoding       415  the body is compressed in a way that is not understood
        UpgradeRefused            426  no WebSocket on this route
        ConversationLocked        400  another turn of the conversation goes on
        RateLimited               429  the client has had its share for now
        ClientDisconnected        499  the client did not wait for its answer; only the log is told
      UpstreamError               the upstream did not do its part
        UpstreamRefused           its own status: it answered with an error
        UpstreamKeyRefused        403  it does not accept the forwarder's key
        UpstreamMisconfigured     502  there is no API at its base URL
        UpstreamUnreachable       502  no connection, or the connection broke
        UpstreamProtocolError     502  it answered, but not as its protocol says
          UpstreamMalformedEvent  502  an event of it could not be read
        UpstreamTimeout           504  it did not answer in time
          UpstreamConnectTimeout  504  not even a connection stood in time
        UpstreamUnavailable       503  it failed so often that it is left alone for a while
      Overloaded                  503  more at once than the operator allows
      RateLimitsUnavailable       503  whether the client has had its share cannot be found out
      StoreUnavailable            503  what is to be remembered cannot be written or read
      ShuttingDown                503  the process ends before the answer does
      InternalError               500  a mistake of the forwarder itself

Each one carries the HTTP ``status`` and the OpenAI-shaped ``body()`` that both protocols use.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from forwarder.core.error_kinds import ErrorKind, classify

_NO_RETRY_HEADERS = {"X-Should-Retry": "false"}
"""For mistakes in the configuration: the same request would fail again."""


MAX_QUOTED_CHARACTERS = 200
"""Characters that a message quotes of a client's value."""


def shorten_value(value: object) -> str:
    """A value for a message: its beginning, if it is long."""
    text = str(value)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


class ForwarderError(Exception):
    """A failure with an HTTP status and an OpenAI-shaped body."""

    status = 500
    type = "server_error"
    code: str | None = None
    param: str | None = None
    default_headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        if (
            param is not None and len(param) > MAX_QUOTED_CHARACTERS
        ):  # names in it may be the client's
            message = message.replace(param, shorten_value(param))
            param = shorten_value(param)
        super().__init__(message)
        self.message = message
        self.param = param if param is not None else self.param
        self.code = code if code is not None else self.code
        self.headers = dict(self.default_headers)

    @property
    def log_detail(self) -> str | None:
        """The text for the log beside the code; None where the message may quote a request."""
        return None

    def make_error_object(self) -> dict[str, Any]:
        """The inner error object: ``{message, type, param, code}``."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }

    def make_body(self) -> dict[str, Any]:
        """The whole error body: ``{"error": {…}}``."""
        return {"error": self.make_error_object()}


class ClientError(ForwarderError):
    """The request cannot be served as it stands."""

    status = 400
    type = "invalid_request_error"


class InvalidRequest(ClientError):
    """The request is malformed, of the wrong type, or contradicts itself."""


class MediaUnavailable(InvalidRequest):
    """The request names by their URLs, or by their ids, what cannot be had; ``names`` are these."""

    code = "unfetchable_url"

    def __init__(
        self, message: str, *, param: str, names: Collection[str], code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.names = frozenset(names)


class Unsupported(ClientError):
    """The request is understood, but the other side has no way to carry it."""

    code = "unsupported_parameter"


class Unauthorized(ClientError):
    """No valid client key."""

    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    """Whoever it is, not from there."""

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
    """The request body is over the configured limit."""

    status = 413
    code = "request_too_large"


class UnsupportedEncoding(ClientError):
    """The request body is compressed in a way that is not understood."""

    status = 415
    code = "unsupported_content_encoding"

    def __init__(self, message: str, accepted: str) -> None:
        super().__init__(f"{message} Accepted: {accepted}.")
        self.headers = {"Accept-Encoding": accepted}


class UpgradeRefused(ClientError):
    """Another protocol was asked for on a route that only speaks HTTP."""

    status = 426
    code = "upgrade_required"


class ConversationLocked(ClientError):
    """Another turn of the conversation goes on; in a moment the same request can be served."""

    code = "conversation_locked"
    param = "conversation"

    def __init__(self) -> None:
        super().__init__(
            "Another process is currently operating on this conversation. "
            "Please retry in a few seconds."
        )
        # OpenAI's status is 400, which its clients try again only when they are told to.
        self.headers = {"Retry-After": "1", "X-Should-Retry": "true"}


class RateLimited(ClientError):
    """The client has had its share of ``requests`` or ``tokens`` for now."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.type = kind


class ClientDisconnected(ClientError):
    """The client did not wait for its answer: what broke by that is nobody's failure."""

    status = 499
    code = "client_left"

    def __init__(self) -> None:
        super().__init__("The client closed the connection before it had its answer.")


class UpstreamError(ForwarderError):
    """The upstream did not do its part."""

    status = 502
    type = "upstream_error"


class UpstreamRefused(UpstreamError):
    """The upstream answered with an error; its message is kept.

    Its status and code are kept too, unless the error is of a known kind (``error_kinds``): then
    they are those that OpenAI has for it, since client programs act on these.  ``status`` is None
    where the error came inside a 200.  ``headers`` holds the response headers that help a client
    (``retry-after`` and the like).
    """

    def __init__(
        self, status: int | None, error: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        found = classify(status, error)
        super().__init__(str(error.get("message") or f"The upstream answered {found.status}."))
        self.kind: ErrorKind | None = found.kind
        self.status = found.status
        self.type = found.type or infer_error_type(found.status)
        self.code = found.code
        self.param = _text(error.get("param"))
        self.extra = {k: v for k, v in error.items() if k not in self.make_error_object()}
        self.headers = dict(headers or {})

    def make_body(self) -> dict[str, Any]:
        return {"error": {**self.make_error_object(), **self.extra}}


class UpstreamKeyRefused(UpstreamError):
    """The upstream does not accept the key that the forwarder holds."""

    status = 403  # clients retry a 502, and take a 401 for their own key
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
    """The upstream answered, but not as its protocol says."""

    code = "upstream_protocol"


class UpstreamMalformedEvent(UpstreamProtocolError):
    """An event could not be read: the upstream's fault, unless the forwarder itself is mistaken."""


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    status = 504
    code = "upstream_timeout"

    @property
    def log_detail(self) -> str:
        return self.message


class UpstreamConnectTimeout(UpstreamTimeout):
    """No connection stood in time: the upstream knows nothing of the request."""


class UpstreamUnavailable(UpstreamError):
    """The upstream was not asked, since it has failed too often; after a while it is again."""

    status = 503
    code = "upstream_unavailable"

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.headers = make_retry_after(seconds)


class Overloaded(ForwarderError):
    """More requests at once than the operator allows, here or for one upstream."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, seconds: float = 1) -> None:
        super().__init__(message)
        self.headers = make_retry_after(seconds)


class RateLimitsUnavailable(ForwarderError):
    """Whether the client has had its share cannot be found out: the storage is down."""

    status = 503
    code = "limits_unknown"


class StoreUnavailable(ForwarderError):
    """What is to be remembered cannot be written, or what was cannot be read."""

    status = 503
    code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__("The forwarder's store does not answer; please ask again.")
        self.headers = {"retry-after": "1"}


class ShuttingDown(ForwarderError):
    """The process ends, and the answer did not; another one will take the request."""

    status = 503
    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("The forwarder is being restarted; please ask again.")
        self.headers = {"retry-after": "1"}


class InternalError(ForwarderError):
    """A mistake of the forwarder itself; the log has the trace, the client does not."""

    code = "internal_error"


def make_retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def infer_error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
