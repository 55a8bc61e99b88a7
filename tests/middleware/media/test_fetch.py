"""Fetching of URLs: allowed URLs, rejections and limits."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest, MediaUnavailable
from forwarder.core.ssrf import AddressGuard
from forwarder.middleware.media import fetch
from forwarder.middleware.media.fetch import Fetcher
from tests.helpers.certificates import Authority
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, Script, encode_chunk, find_unused_port, run_server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
PATH = "messages[0].content[1].image_url.url"
NAMES = {"files.test": "127.0.0.1", "evil.test": "127.0.0.1", "meta.test": "169.254.169.254"}


class Resolver:
    """A resolver of invented private names; it records the look-ups."""

    def __init__(self) -> None:
        self.looked_up_hosts: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.looked_up_hosts.append(host)
        if host not in NAMES:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES[host], port))]


def make_fetcher(
    resolve: Callable[..., Any] | None = None, max_bytes: int = 10_000, seconds: float = 5
) -> Fetcher:
    """A fetcher that may reach the private host ``files.test`` and public hosts."""
    return Fetcher(AddressGuard(["files.test"], resolve or Resolver()), max_bytes, seconds)


def fetch_url(url: str, **limits: Any) -> Blob:
    return make_fetcher(**limits).fetch_all({url: PATH})[url]


def get_refusal(url: str, **limits: Any) -> str:
    """The error message for a URL that is not fetched. The error must name the path."""
    with pytest.raises(InvalidRequest) as caught:
        fetch_url(url, **limits)
    assert (caught.value.status, caught.value.param) == (400, PATH)
    assert PATH in caught.value.message
    return caught.value.message


def make_responder(*lines: bytes, body: bytes = PNG, length: int | None = None) -> Script:
    """A server that answers every request with these lines."""
    size = len(body) if length is None else length
    head = b"\r\n".join([*lines, b"Content-Length: %d" % size, b"", b""])

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head + body)

    return script


IMAGE = make_responder(b"HTTP/1.1 200 OK", b"Content-Type: image/png")


# -- fetched URLs ---------------------------------------------------------------------------------


def test_image_is_fetched_with_its_type_and_name() -> None:
    with run_server(IMAGE) as server:
        url = f"http://files.test:{server.port}/a%20b/c.png?x=ä"
        blob = fetch_url(url)

    assert blob == (PNG, "image/png", "c.png")
    head = server.requests[0].split(b"\r\n")
    assert head[0] == b"GET /a%20b/c.png?x=%C3%A4 HTTP/1.1"
    assert b"Host: files.test:%d" % server.port in head
    assert not any(line.lower().startswith((b"authorization", b"cookie")) for line in head)


def test_chunked_body_is_fetched() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.start_chunked()
        peer.send(encode_chunk(PNG[:50]), encode_chunk(PNG[50:]), encode_chunk(b""))

    with run_server(script) as server:
        assert fetch_url(f"http://files.test:{server.port}/").data == PNG


def test_redirect_is_followed() -> None:
    def script(peer: Peer) -> None:
        is_old_url = b"GET /old" in peer.request()
        (make_responder(b"HTTP/1.1 302 Found", b"Location: /new.png") if is_old_url else IMAGE)(
            AnsweringPeer(peer)
        )

    with run_server(script) as server:
        assert fetch_url(f"http://files.test:{server.port}/old").name == "new.png"


class AnsweringPeer:
    """A peer whose request is already read."""

    def __init__(self, peer: Peer) -> None:
        self.request = lambda: b""
        self.send = peer.send


def test_urls_are_fetched_in_parallel_and_once() -> None:
    all_requested = threading.Barrier(6)

    def script(peer: Peer) -> None:
        peer.request()
        all_requested.wait(4)
        IMAGE(AnsweringPeer(peer))  # type: ignore[arg-type]

    with run_server(script) as server:
        paths_by_url = {f"http://files.test:{server.port}/{i}": f"p{i}" for i in range(6)}
        blobs = make_fetcher().fetch_all(paths_by_url)

    assert list(blobs) == list(paths_by_url)
    assert server.connections == 6


def test_certificate_and_host_name_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    trust = ssl.create_default_context(cafile=str(authority.file))
    monkeypatch.setattr(fetch, "create_trust_context", lambda: trust)

    with run_server(IMAGE, authority.server("files.test")) as server:
        assert fetch_url(f"https://files.test:{server.port}/").data == PNG
    with run_server(IMAGE, authority.server("other.test")) as server:
        assert "cannot be reached" in get_refusal(f"https://files.test:{server.port}/")


def test_name_is_resolved_once_and_its_address_used() -> None:
    resolve = Resolver()
    with run_server(IMAGE) as server:
        fetch_url(f"http://files.test:{server.port}/", resolve=resolve)

    assert resolve.looked_up_hosts == ["files.test"]


# -- refused URLs ---------------------------------------------------------------------------------


@check_each(
    "host",
    [
        "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0",
        "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "0",
        "evil.test", "evil.test.", "EVIL.test",
    ],
)  # fmt: skip
def test_private_host_is_not_contacted(host: str) -> None:
    with run_server(IMAGE) as server:
        message = get_refusal(f"http://{host}:{server.port}/")

    assert server.connections == 0
    assert "no public address" in message or "not a valid URL" in message
    assert "127.0.0.1" not in message.replace(host, "")


@check_each("host", ["meta.test", "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]"])
def test_other_private_hosts_are_not_contacted(host: str) -> None:
    started = time.monotonic()

    assert "no public address" in get_refusal(f"http://{host}/latest/meta-data/")
    assert time.monotonic() - started < 1


@check_each(
    "location",
    [
        b"http://127.0.0.1:{}/", b"http://evil.test:{}/", b"//localhost:{}/", b"http://[::1]:{}/",
        b"http://2130706433:{}/", b"http://[::ffff:127.0.0.1]:{}/", b"file:///etc/passwd",
        b"gopher://files.test:{}/", b"http://user@files.test:{}/",
    ],
)  # fmt: skip
def test_redirect_target_is_checked_by_the_guard(location: bytes) -> None:
    def script(peer: Peer) -> None:
        target = location.replace(b"{}", b"%d" % server.port)
        make_responder(b"HTTP/1.1 302 Found", b"Location: " + target)(peer)

    with run_server(script) as server:
        get_refusal(f"http://files.test:{server.port}/")

    assert server.connections == 1


def test_number_of_redirects_is_limited() -> None:
    with run_server(make_responder(b"HTTP/1.1 301 Moved", b"Location: /again")) as server:
        assert "more than 3 times" in get_refusal(f"http://files.test:{server.port}/")
    assert server.connections == 4


@check_each(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "only http and https"),
        ("ftp://files.test/a", "only http and https"),
        ("gs://bucket/a.png", "only http and https"),
        ("/a.png", "only http and https"),
        ("http://", "only http and https"),
        ("http:///a", "only http and https"),
        ("http://[::1", "not a valid URL"),
        ("http://files.test:99999/", "not"),
        ("http://files.test/\r\nX: y", "not a valid URL"),
        ("http://user:secret@files.test/", "with credentials"),
        ("http://no-such-host.invalid/", "no public address"),
    ],
)
def test_unfetchable_url_is_rejected(url: str, reason: str) -> None:
    assert reason in get_refusal(url)


@check_each(
    ("head", "reason"),
    [
        ([b"HTTP/1.1 404 Gone", b"Content-Type: image/png"], "answered 404"),
        ([b"HTTP/1.1 204 Empty", b"Content-Type: image/png"], "answered 204"),
        ([b"HTTP/1.1 302 Found", b"Content-Type: image/png"], "answered 302"),
        ([b"HTTP/1.1 200 OK", b"Content-Type: application/x-sh"], "neither an image"),
        ([b"HTTP/1.1 200 OK", b"Content-Type: video/mp4"], "neither an image"),
        ([b"HTTP/1.1 200 OK", b"Content-Type: image/png", b"Content-Encoding: gzip"], "compressed"),
        ([b"nonsense"], "could not be fetched"),
    ],
)
def test_other_media_types_are_rejected(head: list[bytes], reason: str) -> None:
    with run_server(make_responder(*head)) as server:
        assert reason in get_refusal(f"http://files.test:{server.port}/")


def test_undeclared_type_is_detected_from_content() -> None:
    with run_server(make_responder(b"HTTP/1.1 200 OK")) as server:
        assert fetch_url(f"http://files.test:{server.port}/").type == "image/png"
    with run_server(make_responder(b"HTTP/1.1 200 OK", body=b"\x7fELF")) as server:
        assert "neither an image" in get_refusal(f"http://files.test:{server.port}/")


def test_unreachable_host_is_rejected_without_details() -> None:
    assert "cannot be reached" in get_refusal(f"http://files.test:{find_unused_port()}/")


# -- limits ---------------------------------------------------------------------------------------


def test_body_declared_too_large_is_not_read() -> None:
    script = make_responder(b"HTTP/1.1 200 OK", b"Content-Type: image/png", length=10_001)
    with run_server(script) as server:
        assert "too large" in get_refusal(f"http://files.test:{server.port}/")


def test_endless_body_is_read_up_to_the_limit() -> None:
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
        while sent < 2**30:
            peer.send(bytes(2**16))
            sent += 2**16

    with run_server(script) as server:
        assert "too large" in get_refusal(f"http://files.test:{server.port}/", max_bytes=2**20)
    assert sent < 2**26  # the rest is in the buffers of the operating system


def test_size_limit_applies_to_all_urls_together() -> None:
    with run_server(IMAGE) as server:
        paths_by_url = {f"http://files.test:{server.port}/{i}": PATH for i in range(3)}
        assert len(make_fetcher(max_bytes=3 * len(PNG)).fetch_all(paths_by_url)) == 3
        with pytest.raises(InvalidRequest, match="too large"):
            make_fetcher(max_bytes=3 * len(PNG) - 1).fetch_all(paths_by_url)


def test_incomplete_body_is_rejected() -> None:
    script = make_responder(b"HTTP/1.1 200 OK", b"Content-Type: image/png", length=len(PNG) + 1)
    with run_server(script) as server:
        assert "incomplete" in get_refusal(f"http://files.test:{server.port}/")


MAX_SECONDS = 2.0
"""Seconds within which a fetch with a time-out of 0.15 ends; the slow servers send for five."""


def drip_bytes(head: bytes, piece: bytes) -> Script:
    """A server that sends a head and then small pieces, so that no single read times out."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(head)
        for _ in range(150):
            peer.send(piece)
            time.sleep(0.03)

    return script


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: peer.server.wait(),
        drip_bytes(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        drip_bytes(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n", b"."),
        drip_bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n.\r\n"),
    ],
    ids=["silent", "slow head", "slow body", "slow chunks"],
)
@pytest.mark.parametrize("tls", [False, True])
def test_slow_server_times_out(
    script: Script, tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    trust = ssl.create_default_context(cafile=str(authority.file))
    monkeypatch.setattr(fetch, "create_trust_context", lambda: trust)
    with run_server(script, authority.server("files.test") if tls else None) as server:
        started = time.monotonic()
        url = f"http{'s' * tls}://files.test:{server.port}/"
        assert "took too long" in get_refusal(url, seconds=0.15)
        assert time.monotonic() - started < MAX_SECONDS


def test_slow_handshake_times_out() -> None:
    with run_server(lambda peer: peer.server.wait()) as server:
        started = time.monotonic()
        assert "took too long" in get_refusal(f"https://files.test:{server.port}/", seconds=0.15)
        assert time.monotonic() - started < MAX_SECONDS


def test_failure_after_the_deadline_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The read or the wait for the result may time out first; the client gets the same error."""
    monkeypatch.setattr(fetch.Future, "result", lambda future, seconds: WAIT_FOR_RESULT(future))
    with run_server(lambda peer: peer.server.wait()) as server:
        for scheme in ("http", "https"):
            url = f"{scheme}://files.test:{server.port}/"
            assert "took too long" in get_refusal(url, seconds=0.1)


WAIT_FOR_RESULT = fetch.Future.result


def test_slow_look_up_times_out() -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        time.sleep(3)
        return []

    started = time.monotonic()
    assert "took too long" in get_refusal("http://slow.test/", resolve=resolve, seconds=0.1)
    assert time.monotonic() - started < MAX_SECONDS


def test_number_of_urls_is_limited() -> None:
    paths_by_url = {f"http://files.test/{i}": f"input[{i}]" for i in range(fetch.MAX_URLS + 1)}

    with pytest.raises(InvalidRequest, match="at most 64") as caught:
        make_fetcher().fetch_all(paths_by_url)
    assert caught.value.param == "input[64]"


def test_error_names_all_unfetchable_urls() -> None:
    with run_server(IMAGE) as server:
        fetchable_url = f"http://files.test:{server.port}/a.png"
        paths_by_url = {"ftp://a/b": "one", fetchable_url: "two", "http://u:p@files.test/": "three"}
        with pytest.raises(MediaUnavailable) as caught:
            make_fetcher().fetch_all(paths_by_url)
    assert caught.value.names == {"ftp://a/b", "http://u:p@files.test/"}
    assert (caught.value.param, caught.value.code) == ("one", "unfetchable_url")
