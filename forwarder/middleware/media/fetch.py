"""Fetches URLs from clients' requests within strict limits.

Only http and https URLs are fetched, and the address guard checks every host, also after a
redirect. The limits of size and time apply to all URLs of a request together, and reading stops at
the size limit. No proxy is used, because the forwarder could not check the addresses behind it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from posixpath import basename
from urllib.parse import unquote

import httpx2

from forwarder.core.data_urls import UNKNOWN, Blob, detect_type
from forwarder.core.errors import InvalidRequest, MediaUnavailable
from forwarder.core.ssrf import AddressGuard, ResolvedAddress
from forwarder.middleware.media.dns_lookups import LookupPool
from forwarder.upstream.transport.pinned_transport import create_trust_context

MAX_REDIRECTS = 3
MAX_LOOKUPS = 8
MAX_URLS = 64
"""Maximum number of fetched URLs in one request."""

MAX_URL_LENGTH = 2**16
"""Longer URLs are not valid for httpx2. `urlsplit` would keep them: it caches its last calls."""

MAX_PARALLEL_FETCHES = 8
READ_BYTES = 2**16
MAX_PORT = 2**16 - 1
_PORTS = {"http": 80, "https": 443}
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_FETCHED_TYPES = (
    "image/", "text/", "application/pdf", "application/json", "application/xml", "application/rtf",
    "application/msword", "application/vnd.ms-", "application/vnd.openxmlformats-officedocument.",
    "application/vnd.oasis.opendocument.",
)  # fmt: skip
"""Prefixes of the accepted media types: images and documents."""
_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "forwarder",
}


class Unfetchable(Exception):
    """Why a URL cannot be fetched, for the client; reveals nothing of the forwarder's network."""


class Fetcher:
    """Fetches URLs; ``max_bytes`` and ``seconds`` limit all URLs of one request together.

    At most ``max_lookups`` host names of all clients are looked up at once.
    """

    def __init__(
        self, guard: AddressGuard, max_bytes: int, seconds: float, max_lookups: int = MAX_LOOKUPS
    ) -> None:
        self._guard = guard
        self._lookups = LookupPool(max_lookups)
        self._max_bytes = max_bytes
        self._seconds = seconds

    def fetch_all(self, wanted: Mapping[str, str], client: str = "") -> dict[str, Blob]:
        """Fetch URLs; ``wanted`` maps each URL to its path in the request.

        ``client`` identifies the client, because each gets only a share of the look-ups.

        Raises InvalidRequest if there are too many URLs, and MediaUnavailable if some cannot be
        fetched: ``names`` holds all of them, the message names path and reason of the first.
        """
        if len(wanted) > MAX_URLS:
            path = list(wanted.values())[MAX_URLS]
            reason = f"a request may contain at most {MAX_URLS} URLs to fetch"
            raise InvalidRequest(explain_refusal(path, reason), param=path, code="unfetchable_url")
        look_up = partial(self._look_up, client)
        session = FetchSession(look_up, self._max_bytes, self._seconds)
        # Threads, because a look-up that takes too long can only be abandoned.
        pool = ThreadPoolExecutor(MAX_PARALLEL_FETCHES)
        try:
            jobs = {url: pool.submit(session.fetch_url, url) for url in wanted}
            results = {url: collect_result(job, session) for url, job in jobs.items()}
        finally:
            session.close()
            pool.shutdown(wait=False, cancel_futures=True)
        reasons = {url: r for url, r in results.items() if isinstance(r, Unfetchable)}
        if reasons:
            url, unfetchable = next(iter(reasons.items()))
            path = wanted[url]
            raise MediaUnavailable(
                explain_refusal(path, str(unfetchable)), param=path, names=reasons
            )
        return {url: r for url, r in results.items() if isinstance(r, Blob)}

    def _look_up(self, client: str, seconds: float, host: str, port: int) -> list[ResolvedAddress]:
        """Return the allowed addresses of a host. Raises TimeoutError."""
        return self._lookups.look_up(client, seconds, partial(self._guard.find_allowed, host, port))


class FetchSession:
    """The fetches of one request: remaining limits and open connections."""

    def __init__(
        self,
        look_up: Callable[[float, str, int], list[ResolvedAddress]],
        max_bytes: int,
        seconds: float,
    ) -> None:
        self._look_up = look_up
        self._bytes_left = max_bytes
        self._deadline = time.monotonic() + seconds
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def seconds_left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def fetch_url(self, url: str) -> Blob:
        """Fetch a URL and follow redirects; raises Unfetchable."""
        try:
            return self._follow_redirects(httpx2.URL(url))
        except httpx2.InvalidURL:
            raise Unfetchable("it is not a valid URL") from None
        except (OSError, HTTPException, ValueError):
            raise self._explain_failure("it could not be fetched") from None

    def _explain_failure(self, reason: str) -> Unfetchable:
        """Return the error for a failed connection; after the deadline it is a time-out."""
        is_late = time.monotonic() >= self._deadline
        return Unfetchable("it took too long" if is_late else reason)

    def close(self) -> None:
        """Abort all running fetches."""
        with self._lock:
            self._deadline = 0.0
            for sock in self._open:
                with suppress(OSError):  # most are closed already
                    sock.shutdown(socket.SHUT_RDWR)

    def _follow_redirects(self, url: httpx2.URL) -> Blob:
        for _ in range(MAX_REDIRECTS + 1):
            with self._send_get(url) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECT_STATUSES or not location:
                    return self._read_response(response, url)
            url = url.join(location)
        raise Unfetchable(f"it redirects more than {MAX_REDIRECTS} times")

    @contextmanager
    def _send_get(self, url: httpx2.URL) -> Iterator[HTTPResponse]:
        if url.scheme not in _PORTS or not url.host:
            raise Unfetchable("only http and https URLs are fetched")
        if (url.port or 0) > MAX_PORT:
            raise httpx2.InvalidURL("no such port")
        if url.userinfo:
            raise Unfetchable("URLs with credentials are not fetched")
        connection = HTTPConnection("unused.invalid")
        connection.auto_open = 0  # opening would look up the name again, past the guard
        with closing(self._open_connection(url)) as connection.sock:
            headers = {"Host": url.netloc.decode(), **_HEADERS}
            connection.request("GET", url.raw_path.decode(), headers=headers)
            with connection.getresponse() as response:
                yield response

    def _open_connection(self, url: httpx2.URL) -> socket.socket:
        host, port = url.raw_host.decode(), url.port or _PORTS[url.scheme]
        addresses = self._look_up(self.seconds_left, host, port)
        if not addresses:
            raise Unfetchable("its host has no public address")
        for family, address in addresses:
            sock = self._track_socket(socket.socket(family, socket.SOCK_STREAM))
            try:
                sock.connect(address)
                return self._wrap_tls(sock, host) if url.scheme == "https" else sock
            except (OSError, ValueError):  # try the next address
                sock.close()
        raise self._explain_failure("its host cannot be reached")

    def _wrap_tls(self, sock: socket.socket, host: str) -> socket.socket:
        tls = create_trust_context().wrap_socket(
            sock, server_hostname=host, do_handshake_on_connect=False
        )
        try:
            self._track_socket(tls)
            tls.do_handshake()
        except BaseException:
            tls.close()
            raise
        return tls

    def _track_socket(self, sock: socket.socket) -> socket.socket:
        with self._lock:
            if time.monotonic() > self._deadline:
                sock.close()
                raise Unfetchable("it took too long")
            sock.settimeout(self.seconds_left)
            self._open.append(sock)
        return sock

    def _read_response(self, response: HTTPResponse, url: httpx2.URL) -> Blob:
        if response.status != 200:
            raise Unfetchable(f"its server answered {response.status}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Unfetchable("its server sent a compressed response")
        declared = response.headers.get_content_type() if response.headers["Content-Type"] else None
        check_type_is_known(declared or UNKNOWN, (*_FETCHED_TYPES, UNKNOWN, "binary/octet-stream"))
        name = basename(unquote(url.path)) or None
        data = self._read_body(response)
        kind = detect_type(data, declared, name)
        check_type_is_known(kind, _FETCHED_TYPES)
        return Blob(data, kind, name)

    def _read_body(self, response: HTTPResponse) -> bytes:
        length = response.length
        if length is not None:
            self._check_size(length)
        pieces = []
        while piece := response.read1(READ_BYTES):
            pieces.append(piece)
            self._spend_bytes(len(piece))
        body = b"".join(pieces)
        if not body or len(body) < (length or 0):
            raise Unfetchable("its server sent an empty or incomplete response")
        return body

    def _spend_bytes(self, count: int) -> None:
        with self._lock:
            self._check_size(count)
            self._bytes_left -= count
        if time.monotonic() > self._deadline:
            raise Unfetchable("it took too long")

    def _check_size(self, count: int) -> None:
        if count > self._bytes_left:
            raise Unfetchable("it is too large, alone or with the other URLs in the request")


def collect_result(job: Future[Blob], session: FetchSession) -> Blob | Unfetchable:
    try:
        return job.result(session.seconds_left)
    except TimeoutError:
        return Unfetchable("it took too long")
    except Unfetchable as reason:
        return reason


def check_type_is_known(kind: str, known: tuple[str, ...]) -> None:
    if not kind.startswith(known):
        raise Unfetchable("it is neither an image nor a supported document")


def explain_refusal(path: str, reason: str) -> str:
    return f"Invalid value for '{path}': {reason}."
