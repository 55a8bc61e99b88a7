"""The connection pool: opening, reuse, expiry, TLS trust and proxies."""

from __future__ import annotations

import os
import resource
import socket as plain_socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import gevent.ssl
import httpx2
import pytest

from forwarder.upstream.transport import connection_pool
from forwarder.upstream.transport.connection_pool import ServerConnectionPool, select_proxy
from tests.helpers.certificates import Authority
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, Server, find_unused_port, run_server

NO_LIMITS: dict[str, float | None] = {}


def hold_connection(peer: Peer) -> None:
    """Keep the connection until the client closes it or the test ends."""
    peer.server.wait()


@contextmanager
def make_pool(
    server: Server, size: int = 10, tls: ssl.SSLContext | None = None
) -> Iterator[ServerConnectionPool]:
    pool = ServerConnectionPool(httpx2.URL(server.url), None, tls, size)
    try:
        yield pool
    finally:
        pool.close()


def make_tls_context(authority: Authority) -> ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    return context


# -- reuse ------------------------------------------------------------------------------------


def test_a_returned_connection_is_used_again() -> None:
    with run_server(hold_connection) as server, make_pool(server) as pool:
        first, used = pool.acquire(NO_LIMITS, fresh=False)
        assert not used
        pool.return_socket(first)
        second, used = pool.acquire(NO_LIMITS, fresh=False)
        pool.release_socket(second)

    assert second is first
    assert used
    assert pool.opened_connections == 1


def test_a_released_connection_is_closed() -> None:
    with run_server(hold_connection) as server, make_pool(server) as pool:
        sock, _ = pool.acquire(NO_LIMITS, fresh=False)
        pool.release_socket(sock)
        assert sock.fileno() == -1
        pool.release_socket(pool.acquire(NO_LIMITS, fresh=False)[0])

    assert pool.opened_connections == 2


def test_fresh_connection_can_be_requested() -> None:
    with run_server(hold_connection) as server, make_pool(server) as pool:
        first, _ = pool.acquire(NO_LIMITS, fresh=False)
        pool.return_socket(first)
        second, used = pool.acquire(NO_LIMITS, fresh=True)
        pool.release_socket(second)

    assert second is not first
    assert not used


@check_each("script", [lambda peer: None, lambda peer: peer.send(b"stray")])
def test_closed_or_unexpectedly_readable_connection_is_not_reused(script: object) -> None:
    with run_server(script) as server, make_pool(server) as pool:  # type: ignore[arg-type]
        first, _ = pool.acquire(NO_LIMITS, fresh=False)
        pool.return_socket(first)
        time.sleep(0.05)
        second, used = pool.acquire(NO_LIMITS, fresh=False)
        pool.release_socket(second)

    assert not used
    assert first.fileno() == -1


def test_idle_connections_are_closed_without_further_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_pool, "MAX_IDLE_SECONDS", 0.2)
    with run_server(hold_connection) as server, make_pool(server) as pool:
        first, second = (pool.acquire(NO_LIMITS, fresh=False)[0] for _ in range(2))
        pool.return_socket(first)
        gevent.sleep(0.12)
        pool.return_socket(second)
        with gevent.Timeout(10):
            while first.fileno() != -1:
                gevent.sleep(0.01)
        assert second.fileno() != -1
        with gevent.Timeout(10):
            while second.fileno() != -1:
                gevent.sleep(0.01)

        assert pool._prune_timer is None


def test_a_connection_that_was_idle_too_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the busy event loop has not closed it yet."""
    monkeypatch.setattr(connection_pool, "MAX_IDLE_SECONDS", 0.1)
    with run_server(hold_connection) as server, make_pool(server) as pool:
        sock, _ = pool.acquire(NO_LIMITS, fresh=False)
        pool.return_socket(sock)
        time.sleep(0.15)  # blocks the event loop
        other, used = pool.acquire(NO_LIMITS, fresh=False)
        pool.release_socket(other)

    assert not used
    assert sock.fileno() == -1


def test_a_closed_pool_leaves_no_timer() -> None:
    with run_server(hold_connection) as server, make_pool(server) as pool:
        pool.return_socket(pool.acquire(NO_LIMITS, fresh=False)[0])
        timer = pool._prune_timer
        assert timer.active
        pool.close()

        assert not timer.active
        assert pool._prune_timer is None


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1200, reason="needs 1200 open files"
)
def test_connections_with_file_numbers_above_1024_are_reused() -> None:
    """``select`` refuses such numbers, so the check of the library's pool would fail."""
    with run_server(hold_connection) as server, make_pool(server) as pool:
        low_files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
        sock, _ = pool.acquire(NO_LIMITS, fresh=False)
        assert sock.fileno() > 1023
        pool.return_socket(sock)
        _, used = pool.acquire(NO_LIMITS, fresh=False)
        pool.release_socket(sock)
        for file in low_files:
            os.close(file)

    assert used


def test_closing_the_pool_closes_idle_and_returning_connections() -> None:
    with run_server(hold_connection) as server, make_pool(server) as pool:
        first, _ = pool.acquire(NO_LIMITS, fresh=False)
        second, _ = pool.acquire(NO_LIMITS, fresh=False)
        pool.return_socket(first)
        pool.close()
        pool.return_socket(second)
        assert first.fileno() == second.fileno() == -1


# -- limits and failures ----------------------------------------------------------------------


def test_waiting_for_a_connection_slot_times_out() -> None:
    with run_server(hold_connection) as server, make_pool(server, size=1) as pool:
        sock, _ = pool.acquire(NO_LIMITS, fresh=False)
        with pytest.raises(httpx2.PoolTimeout):
            pool.acquire({"pool": 0.05}, fresh=False)
        gevent.spawn_later(0.05, pool.return_socket, sock)
        second, used = pool.acquire({"pool": 2}, fresh=False)
        pool.release_socket(second)

    assert used


def test_failed_connection_attempt_releases_its_slot() -> None:
    pool = ServerConnectionPool(httpx2.URL(f"http://localhost:{find_unused_port()}"), None, None, 1)
    for _ in range(3):
        with pytest.raises(httpx2.ConnectError):
            pool.acquire({"pool": 0.05}, fresh=False)

    assert pool.opened_connections == 0


@check_each("host", ["no-such-host.invalid", "x" * 64 + ".invalid"])
def test_an_unknown_name_is_a_connect_error(host: str) -> None:
    pool = ServerConnectionPool(httpx2.URL(f"http://{host}"), None, None, 1)

    with pytest.raises(httpx2.ConnectError):
        pool.acquire({"connect": 5}, fresh=False)


def test_connecting_times_out() -> None:
    with plain_socket.create_server(("127.0.0.1", 0), backlog=0) as full_server:
        port = full_server.getsockname()[1]
        fillers = [plain_socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        pool = ServerConnectionPool(httpx2.URL(f"http://127.0.0.1:{port}"), None, None, 1)
        started = time.monotonic()
        with pytest.raises(httpx2.ConnectTimeout):
            pool.acquire({"connect": 0.1}, fresh=False)
        for filler in fillers:
            filler.close()

    assert time.monotonic() - started < 1


# -- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_server_with_a_trusted_certificate_is_accepted(authority: Authority) -> None:
    with (
        run_server(hold_connection, authority.server("localhost")) as server,
        make_pool(server, tls=make_tls_context(authority)) as pool,
    ):
        sock, _ = pool.acquire({"connect": 2}, fresh=False)
        assert sock.version() == "TLSv1.3"
        pool.release_socket(sock)


def test_a_server_with_an_unknown_certificate_is_a_connect_error(authority: Authority) -> None:
    tls = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with (
        run_server(hold_connection, authority.server("localhost")) as server,
        make_pool(server, tls=tls) as pool,
        pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        pool.acquire({"connect": 2}, fresh=False)


def test_a_server_with_another_name_is_a_connect_error(authority: Authority) -> None:
    with (
        run_server(hold_connection, authority.server("example.org")) as server,
        make_pool(server, tls=make_tls_context(authority)) as pool,
        pytest.raises(httpx2.ConnectError, match=r"[Hh]ostname"),
    ):
        pool.acquire({"connect": 2}, fresh=False)


def test_a_server_that_speaks_no_tls_is_a_connect_error(authority: Authority) -> None:
    with run_server(lambda peer: peer.send(b"HTTP/1.1 400 Bad\r\n\r\n")) as server:
        url = httpx2.URL(f"https://localhost:{server.port}")
        with pytest.raises(httpx2.ConnectError):
            ServerConnectionPool(url, None, make_tls_context(authority), 1).acquire(
                {"connect": 2}, fresh=False
            )


def test_a_handshake_without_an_answer_is_a_connect_time_out(authority: Authority) -> None:
    with run_server(hold_connection) as server:
        url = httpx2.URL(f"https://localhost:{server.port}")
        with pytest.raises(httpx2.ConnectTimeout):
            ServerConnectionPool(url, None, make_tls_context(authority), 1).acquire(
                {"connect": 0.1}, fresh=False
            )


def test_records_that_have_arrived_together_are_one_piece(authority: Authority) -> None:
    def script(peer: Peer) -> None:
        peer.send(*(b"%d " % n for n in range(100)))
        peer.server.wait()
        peer.send(b"more")

    with (
        run_server(script, authority.server("localhost")) as server,
        make_pool(server, tls=make_tls_context(authority)) as pool,
    ):
        sock, _ = pool.acquire({"connect": 2}, fresh=False)
        time.sleep(0.1)
        assert pool.receive(sock) == b"".join(b"%d " % n for n in range(100))
        server.go.set()
        sock.settimeout(2)
        assert pool.receive(sock) == b"more"
        assert pool.receive(sock) == b""
        assert sock.gettimeout() == 2
        pool.release_socket(sock)


def test_silence_behind_tls_is_a_time_out(authority: Authority) -> None:
    with (
        run_server(hold_connection, authority.server("localhost")) as server,
        make_pool(server, tls=make_tls_context(authority)) as pool,
    ):
        sock, _ = pool.acquire({"connect": 2}, fresh=False)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            pool.receive(sock)
        pool.release_socket(sock)


PATCHED = """
from gevent import monkey; monkey.patch_all()
import sys, gevent, gevent.ssl, httpx2
from forwarder.upstream.transport.pinned_transport import create_trust_context
from forwarder.upstream.transport.gevent_transport import GeventTransport
assert isinstance(create_trust_context(), gevent.ssl.SSLContext)
client = httpx2.Client(transport=GeventTransport())
ticks = []
gevent.spawn(lambda: [ticks.append(gevent.sleep(0.01)) for _ in range(100)])
try:
    print(client.get(sys.argv[1]).text, len(ticks) > 3)
except httpx2.ConnectError as error:
    print("refused", "CERTIFICATE_VERIFY_FAILED" in str(error))
"""


@check_each(("is_trusted", "expected"), [(True, "hello True"), (False, "refused True")])
@pytest.mark.live
def test_worker_reads_trusted_certificates_from_the_environment(
    is_trusted: bool, expected: str, authority: Authority
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        time.sleep(0.1)  # other greenlets run meanwhile
        peer.answer(b"hello")

    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "."}
    if is_trusted:
        environment["SSL_CERT_FILE"] = str(authority.file)
    with run_server(script, authority.server("localhost")) as server:
        done = subprocess.run(
            [sys.executable, "-c", PATCHED, server.url],
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    assert (done.stdout.strip(), done.stderr) == (expected, "")


# -- proxies ----------------------------------------------------------------------------------

PROXIES = {
    "http": "http://plain:1",
    "https": "secure:2",
    "no": "a.org, .b.org,*.c.org,10.1.0.0/16,::1",
}


@check_each(
    ("url", "proxy"),
    [
        ("http://x.org", "http://plain:1"),
        ("https://x.org", "http://secure:2"),
        ("http://a.org", None),
        ("http://www.a.org:8080", None),
        ("http://aa.org", "http://plain:1"),
        ("http://www.b.org", None),
        ("http://www.c.org", None),
        ("http://10.1.2.3", None),
        ("http://10.2.2.3", "http://plain:1"),
        ("http://[::1]:81", None),
        ("http://[::2]", "http://plain:1"),
    ],
)
def test_the_proxy_for_a_url(url: str, proxy: str | None) -> None:
    assert select_proxy(httpx2.URL(url), PROXIES) == (httpx2.URL(proxy) if proxy else None)


@check_each(
    ("proxies", "proxy"),
    [
        ({}, None),
        ({"all": "http://all:3"}, "http://all:3"),
        ({"all": "http://all:3", "http": "http://plain:1"}, "http://plain:1"),
        ({"all": "http://all:3", "no": "*"}, None),
        ({"all": "http://all:3", "no": ""}, "http://all:3"),
        ({"ftp": "http://all:3"}, None),
    ],
)
def test_the_settings_of_proxies(proxies: dict[str, str], proxy: str | None) -> None:
    assert select_proxy(httpx2.URL("http://x"), proxies) == (httpx2.URL(proxy) if proxy else None)


@check_each("proxy", ["socks5://p:1", "https://p:1"])
def test_other_kinds_of_proxies_are_refused(proxy: str) -> None:
    with pytest.raises(httpx2.UnsupportedProtocol):
        select_proxy(httpx2.URL("http://x"), {"all": proxy})
