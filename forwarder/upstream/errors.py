"""Converts the errors of the SDK and of its HTTP client into the forwarder's errors.

The messages name the upstream and the setting to correct, and contain no secrets.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.request import getproxies

import httpx2
import openai

from forwarder.config.settings import UpstreamSettings
from forwarder.context.redaction import redact_headers, redact_secrets
from forwarder.core.error_classification import read_error
from forwarder.core.errors import (
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamMisconfigured,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.types import Json
from forwarder.upstream.key_refusal import (
    describe_refused_key,
    is_key_refusal,
    make_key_refusal_error,
)
from forwarder.upstream.response import select_client_headers
from forwarder.upstream.transport.answer_limits import UnreadableAnswer
from forwarder.upstream.transport.connection_errors import describe_connection_error, find_proxy

log = logging.getLogger("forwarder.upstream")

_KEY_REFUSAL_LOG_SECONDS = 600.0
"""Minimum seconds between two log entries about a refused key, if some requests succeed."""

_TLS_REQUIRED_PATTERN = re.compile(
    r"plain http.{0,40}(https|ssl)|http request to an https", re.IGNORECASE
)
"""The errors of servers that get plain HTTP on a TLS port."""


class ErrorConverter:
    """Context manager that replaces exceptions by the forwarder's errors.

    ``key_refusal`` is the message of the last refusal of the forwarder's key, until a request
    succeeds.  A refusal is logged once, unless ``logs_key_refusal`` is false.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self.key_refusal: str | None = None
        self.logs_key_refusal = True
        self._settings = settings
        self._key_refusal_logged_at = float("-inf")
        # Hosts of registered models are never called through a proxy.
        self._proxies = {} if settings.registered else getproxies()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        converted = self._convert(error) if error is not None else None
        if converted is not None:
            raise converted from None

    def name_setting(self, suffix: str, parameter: str) -> str:
        """Return the name of a setting's variable, or the parameter of a registered model."""
        settings = self._settings
        return parameter if settings.registered else settings.name_variable(suffix)

    # -- refused keys ---------------------------------------------------------------------------

    def is_own_key_refused(self, refusal: UpstreamRefused) -> bool:
        """Return whether the upstream refused the forwarder's key, not the client's."""
        return not self._settings.passthrough_key and is_key_refusal(refusal)

    def make_key_refusal(self, refusal: UpstreamRefused) -> UpstreamKeyRefused:
        """Create the error for a refused key; log it once, not for every request."""
        error = make_key_refusal_error(refusal, self._settings)
        now = time.monotonic()
        is_due = now - self._key_refusal_logged_at > _KEY_REFUSAL_LOG_SECONDS
        if self.logs_key_refusal and is_due:
            self.logs_key_refusal, self._key_refusal_logged_at = False, now
            # Without the upstream's message, which may quote the client's request.
            detail = describe_refused_key(self._settings)
            name = self._settings.name
            log.error({"event": "upstream_key_refused", "upstream": name, "detail": detail})
        return error

    def convert_refusal(self, error: UpstreamError) -> UpstreamError:
        """Convert an error inside an answer if it is a refusal of the forwarder's key."""
        if not isinstance(error, UpstreamRefused) or not self.is_own_key_refused(error):
            return error
        converted = self.make_key_refusal(error)
        self.key_refusal = converted.message
        return converted

    def record_success(self) -> None:
        """Record that the upstream accepts the key."""
        self.key_refusal = None
        self.logs_key_refusal = True

    # -- conversion -----------------------------------------------------------------------------

    def _convert(self, error: BaseException) -> UpstreamError | None:
        """Convert an error of the SDK or of its HTTP client; ``None`` for other exceptions."""
        unreadable = error if isinstance(error, UnreadableAnswer) else error.__cause__
        if isinstance(unreadable, UnreadableAnswer):
            return UpstreamProtocolError(f"The upstream '{self._settings.name}' {unreadable}.")
        if isinstance(error, openai.APIStatusError):
            return self._convert_status_error(error)
        if isinstance(error, openai.APITimeoutError):
            return self._make_timeout_error(error.__cause__, error.request)
        if isinstance(error, openai.APIConnectionError):
            return self._make_connection_error(error.__cause__ or error)
        # The SDK does not wrap the exceptions of an error body that stalls or breaks.
        if isinstance(error, httpx2.TimeoutException):
            return self._make_timeout_error(error)
        if isinstance(error, httpx2.TransportError | OSError):
            return self._make_connection_error(error)
        if not isinstance(error, openai.OpenAIError):
            return None
        return UpstreamProtocolError(
            f"The upstream '{self._settings.name}' could not be used: {error}"
        )

    def _convert_status_error(self, error: openai.APIStatusError) -> UpstreamError:
        settings, status = self._settings, error.status_code
        if status < 400:
            return UpstreamProtocolError(
                f"The upstream '{settings.name}' answered {status}, a redirect; "
                "set its base URL to the target of the redirect."
            )
        proxy = find_proxy(settings.base_url, self._proxies) if status == 407 else None
        if proxy:
            return self._make_unreachable_error(
                f"the proxy {proxy} wants a user and password (407)"
            )
        is_plain_http = settings.base_url.startswith("http://")
        if (
            status == 400
            and is_plain_http
            and _TLS_REQUIRED_PATTERN.search(error.response.text[:1000])
        ):
            return UpstreamMisconfigured(
                f"The upstream '{settings.name}' expects TLS: its base URL "
                f"({self.name_setting('BASE_URL', 'remote_host')}) must begin with https://."
            )
        headers = redact_headers(select_client_headers(error.response.headers), settings)
        refusal = UpstreamRefused(status, self._read_error_object(error), headers)
        return self.make_key_refusal(refusal) if self.is_own_key_refused(refusal) else refusal

    def _read_error_object(self, error: openai.APIStatusError) -> Json:
        # The SDK's `body` omits a code next to the error object; it is None if the body is unread.
        text = "" if error.body is None else error.response.text.strip()
        if not text or text.startswith("<"):
            return {"message": f"The upstream answered {error.status_code} without a JSON body."}
        fields = redact_secrets(read_error(text), self._settings)
        name = error.response.headers.get("x-amzn-errortype")  # AWS names the error only here
        if name and "code" not in fields:
            fields["code"] = name.partition(":")[0]
        if fields.keys() == {"message"}:  # cut after redaction, or half a secret could remain
            fields["message"] = fields["message"][:500]
        return {**fields, "message": fields["message"] or str(error.status_code)}

    def _make_timeout_error(
        self, error: BaseException | None, request: httpx2.Request | None = None
    ) -> UpstreamTimeout:
        limits = request.extensions.get("timeout", {}) if request is not None else {}
        name = self._settings.name
        if isinstance(error, httpx2.PoolTimeout):
            return UpstreamConnectTimeout(f"All connections to the upstream '{name}' are in use.")
        if isinstance(error, httpx2.ConnectTimeout):
            proxy = find_proxy(self._settings.base_url, self._proxies)
            through = f" through the proxy {proxy}" if proxy else ""
            within = describe_limit(limits, "connect")
            return UpstreamConnectTimeout(
                f"The upstream '{name}' could not be connected to{through} {within}."
            )
        return UpstreamTimeout(
            f"The upstream '{name}' did not answer {describe_limit(limits, 'read')}."
        )

    def _make_connection_error(self, error: BaseException) -> UpstreamUnreachable:
        return self._make_unreachable_error(
            describe_connection_error(error, self._settings.base_url, self._proxies)
        )

    def _make_unreachable_error(self, reason: str) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            f"The upstream '{self._settings.name}' cannot be reached: {reason}."
        )


def describe_limit(limits: Mapping[str, Any], kind: str) -> str:
    """Return the exceeded time-out as a phrase."""
    seconds = limits.get(kind)
    return f"within {seconds:g} seconds" if seconds else "in time"
