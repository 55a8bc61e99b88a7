"""Fetches what a request names by URL, on the client's word and therefore within narrow limits.

Only http and https, only hosts that the guard lets pass, judged again at every redirect.  The
limits of size and time hold for all that one request names, together; what is too large is read up
to the limit and no further.  No proxy is used: behind one, nobody could judge where it connects.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from posixpath import basename
from urllib.parse import unquote

import httpx2

from forwarder.core.data_urls import UNKNOWN, Blob, detect_type
from forwarder.core.errors import InvalidRequest, MediaUnavailable
from forwarder.core.ssrf import AddressGuard, ResolvedAddress
from forwarder.middleware.media.dns_lookups import LookupPool

MAX_REDIRECTS = 3
MAX_LOOKUPS = 8
MAX_URLS = 64
"""How many URLs one request may name."""

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
"""How the types of documents and images begin."""
_HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "forwarder",
}


class Unfetchable(Exception):
    """Why, in words for the client: they tell nothing of the network that the forwarder is in."""


class Fetcher:
    """Fetches within limits: ``max_bytes`` and ``seconds`` for all that one request names.

    At most ``max_lookups`` names are looked up at once, for all clients together.
    """

    def __init__(
        self, guard: AddressGuard, max_bytes: int, seconds: float, max_lookups: int = MAX_LOOKUPS
    ) -> None:
        self._guard = guard
        self._lookups = LookupPool(max_lookups)
        self._max_bytes = max_bytes
        self._seconds = seconds

    def fetch_all(self, wanted: Mapping[str, str], client: str = "") -> dict[str, Blob]:
        """URL -> what is there; ``wanted`` maps each to the path in the request that names it.

        ``client`` says who asks: each has a share of the look-ups.

        Raises InvalidRequest that names the path and the reason; NotFetched, about all that
        cannot be fetched, names those of the first.
        """
        if len(wanted) > MAX_URLS:
            path = list(wanted.values())[MAX_URLS]
            reason = f"a request may name at most {MAX_URLS} URLs to be fetched"
            raise InvalidRequest(refuse_url(path, reason), param=path, code="unfetchable_url")
        addresses = partial(self._look_up, client)
        errand = FetchSession(addresses, self._max_bytes, self._seconds)
        pool = ThreadPoolExecutor(
            MAX_PARALLEL_FETCHES
        )  # the look-up of a name can be left, not limited
        try:
            jobs = {url: pool.submit(errand.fetch_url, url) for url in wanted}
            results = {url: collect_result(job, errand) for url, job in jobs.items()}
        finally:
            errand.close()
            pool.shutdown(wait=False, cancel_futures=True)
        reasons = {url: r for url, r in results.items() if isinstance(r, Unfetchable)}
        for url, unfetchable in reasons.items():
            path = wanted[url]
            raise MediaUnavailable(refuse_url(path, str(unfetchable)), param=path, names=reasons)
        return {url: r for url, r in results.items() if isinstance(r, Blob)}

    def _look_up(self, client: str, seconds: float, host: str, port: int) -> list[ResolvedAddress]:
        """The addresses of a host that may be reached.  Raises TimeoutError."""
        return self._lookups.look_up(client, seconds, partial(self._guard.find_allowed, host, port))


class FetchSession:
    """What one request makes the forwarder fetch: the limits, and the open connections."""

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
        """What is at ``url``, or where that leads; raises Unfetchable."""
        try:
            return self._follow_redirects(httpx2.URL(url))
        except httpx2.InvalidURL:
            raise Unfetchable("it is not a valid URL") from None
        except (OSError, HTTPException, ValueError):
            raise self._explain_failure("it could not be fetched") from None

    def _explain_failure(self, reason: str) -> Unfetchable:
        """Why a connection failed; whatever fails when the time is over failed for want of time."""
        late = time.monotonic() >= self._deadline
        return Unfetchable("it took too long" if late else reason)

    def close(self) -> None:
        """Break off what is still going on."""
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
            raise Unfetchable("a URL with a user's name is not fetched")
        connection = HTTPConnection("unused.invalid")
        connection.auto_open = 0  # it would look the name up again
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
            except (OSError, ValueError):  # perhaps the next one answers
                sock.close()
        raise self._explain_failure("its host cannot be reached")

    def _wrap_tls(self, sock: socket.socket, host: str) -> socket.socket:
        tls = build_tls_context().wrap_socket(
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
            raise Unfetchable("its server sent it compressed")
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
            raise Unfetchable("its server sent it incompletely")
        return body

    def _spend_bytes(self, count: int) -> None:
        with self._lock:
            self._check_size(count)
            self._bytes_left -= count
        if time.monotonic() > self._deadline:
            raise Unfetchable("it took too long")

    def _check_size(self, count: int) -> None:
        if count > self._bytes_left:
            raise Unfetchable("it is too large, alone or with what else the request names")


def collect_result(job: Future[Blob], errand: FetchSession) -> Blob | Unfetchable:
    try:
        return job.result(errand.seconds_left)
    except TimeoutError:
        return Unfetchable("it took too long")
    except Unfetchable as reason:
        return reason


def check_type_is_known(kind: str, known: tuple[str, ...]) -> None:
    if not kind.startswith(known):
        raise Unfetchable("it is neither an image nor a document")


def refuse_url(path: str, reason: str) -> str:
    return f"Invalid value for '{path}': {reason}."


@cache
def build_tls_context() -> ssl.SSLContext:
    return httpx2.create_ssl_context()
