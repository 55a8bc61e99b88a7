"""Describes connection errors for clients, the log and /ready.

The exceptions of both transports have the error of the operating system or of OpenSSL as cause.
Descriptions name hosts and ports only, never the user and password of a proxy.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping

import httpx2

from forwarder.upstream.transport.connection_pool import select_proxy
from forwarder.upstream.transport.pinned_transport import NO_ADDRESS_MESSAGE

_DEFAULT_PORTS = {"http": 80, "https": 443}

_CERTIFICATE_CHECKS = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate comes from an unknown authority",
    20: "its certificate comes from an unknown authority",
    21: "its certificate comes from an unknown authority",
    23: "its certificate was revoked",
    62: "its certificate is for another host name",
    64: "its certificate is for another IP address",
}
"""OpenSSL's verification error -> the check that failed."""

_UNTRUSTED_CODES = frozenset({18, 19, 20, 21})
"""Verification errors that disappear if the authority is trusted."""

_STRICT_CODES = range(80, 94)
"""Verification errors of VERIFY_X509_STRICT, which Python 3.13 and newer switch on."""

_NOT_TLS_REASONS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""OpenSSL's reasons if the server does not speak TLS."""

_NEGOTIATION_REASONS = (
    "handshake failure",
    "protocol version",
    "unsupported protocol",
    "no ciphers",
)
"""OpenSSL's reasons if the two sides have no protocol or cipher in common."""

_RESET_ERRORS = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

_PROXY_STATUS = re.compile(r"\b[45]\d\d\b[ -~]*")


def describe_connection_error(
    error: BaseException, base_url: str, proxies: Mapping[str, str]
) -> str:
    """Return a clause with the reason for ``error`` in a request to ``base_url``.

    ``proxies`` has the form of ``urllib.request.getproxies``.
    """
    url = httpx2.URL(base_url)
    server, proxy = format_address(url), find_proxy(base_url, proxies)
    causes = list(iter_causes(error))
    if any(isinstance(cause, httpx2.ProxyError) for cause in causes):
        return f"the proxy {proxy} refused to connect to {server}{describe_proxy_status(error)}"
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            # Only the server's own TLS can fail: proxies are used without TLS.
            return describe_tls_error(cause, server, url.host) + describe_proxy(proxy)
    reached = (proxy or server).rpartition("/")[2]
    for cause in causes:
        if not isinstance(cause, OSError | UnicodeError):
            continue
        words = describe_system_error(cause, reached)
        if isinstance(error, httpx2.ConnectError):
            return f"the proxy {proxy} cannot be reached: {words}" if proxy else words
        hint = make_https_hint(url) if isinstance(cause, _RESET_ERRORS) else ""
        return words + hint + describe_proxy(proxy)
    hint = make_https_hint(url) if isinstance(error, httpx2.RemoteProtocolError) else ""
    return describe_protocol_error(error, server) + hint + describe_proxy(proxy)


def describe_broken_answer(error: BaseException) -> str:
    """Return a clause with the reason why a connection broke during an answer."""
    if any(isinstance(cause, ConnectionError) for cause in iter_causes(error)):
        return "it was reset"
    if isinstance(error, httpx2.RemoteProtocolError):
        return "it was closed before the answer was complete"
    return type(error).__name__


def iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = (
            error.__cause__ or error.__context__
        )  # httpcore2 suppresses the context but keeps it


def format_address(url: httpx2.URL) -> str:
    """Return ``host:port`` without user and password."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or _DEFAULT_PORTS.get(url.scheme, 80)}"


def find_proxy(base_url: str, proxies: Mapping[str, str]) -> str | None:
    """Return the proxy for ``base_url`` as ``http://host:port``."""
    try:
        proxy = select_proxy(httpx2.URL(base_url), proxies)
    except httpx2.UnsupportedProtocol:  # the error itself says so
        return None
    return f"{proxy.scheme}://{format_address(proxy)}" if proxy else None


def describe_proxy(proxy: str | None) -> str:
    return f" (through the proxy {proxy})" if proxy else ""


def describe_proxy_status(error: BaseException) -> str:
    """Return the status line of the proxy's refusal, or the error's text."""
    status = _PROXY_STATUS.search(str(error))
    return f" ({status.group().strip()})" if status else f" ({error})"


def describe_tls_error(error: ssl.SSLError, server: str, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS with {server} failed: {describe_certificate_error(error, host)}"
    if error.reason in _NOT_TLS_REASONS:
        return (
            f"TLS with {server} failed: it answers in plain HTTP, or in another protocol "
            "(does it expect http://?)"
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return f"TLS with {server} failed: it closed the connection"
    if error.reason and "CERTIFICATE_REQUIRED" in error.reason:
        return f"TLS with {server} failed: it wants a client certificate"
    reason = (error.reason or "unknown reason").replace("_", " ").lower()
    if any(words in reason for words in _NEGOTIATION_REASONS):
        reason = f"the two sides have no protocol or cipher in common ({reason})"
    return f"TLS with {server} failed: {reason}"


def describe_certificate_error(error: ssl.SSLCertVerificationError, host: str) -> str:
    code, message = error.verify_code, error.verify_message
    if code in _STRICT_CODES:
        return (
            f"its certificate, or its authority's, breaks a rule that Python 3.13 and newer "
            f"enforce: {message}. A private authority must put key identifiers and key usage "
            "into its certificates; reissue them"
        )
    problem = _CERTIFICATE_CHECKS.get(code, "its certificate was not accepted")
    if code in (62, 64):
        return f"{problem} than '{host}'"
    hint = "; SSL_CERT_FILE can name an authority to trust" if code in _UNTRUSTED_CODES else ""
    return f"{problem} ({message}){hint}"


def describe_system_error(error: BaseException, place: str) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the host name '{place.rpartition(':')[0]}' cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return f"{place} refused the connection"
    if isinstance(error, _RESET_ERRORS):
        return f"{place} reset the connection"
    words = error.strerror if isinstance(error, OSError) else None
    return f"there is no connection to {place} ({words or type(error).__name__})"


def describe_protocol_error(error: BaseException, server: str) -> str:
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return str(error)
    if str(error) == NO_ADDRESS_MESSAGE:
        return f"{server} has no address that the forwarder may connect to"
    if isinstance(error, httpx2.RemoteProtocolError):
        words = str(error).lower()
        if "clos" in words or "disconnect" in words or "ended" in words:
            return f"{server} closed the connection before its answer was complete"
        return f"{server} did not answer in HTTP"
    return f"the connection to {server} broke ({type(error).__name__})"


def make_https_hint(url: httpx2.URL) -> str:
    return " (does it expect https://?)" if url.scheme == "http" else ""
