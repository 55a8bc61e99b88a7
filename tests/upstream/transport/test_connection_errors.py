"""Descriptions of connection errors, against real servers, over both transports."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import gevent.ssl
import httpx2
import pytest

from forwarder.upstream.transport.connection_errors import (
    describe_broken_answer,
    describe_connection_error,
    find_proxy,
)
from forwarder.upstream.transport.gevent_transport import GeventTransport
from forwarder.upstream.transport.pinned_transport import PinnedTransport
from tests.helpers.certificates import Authority
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, find_unused_port, run_server

Make = Callable[[ssl.SSLContext, Mapping[str, str]], httpx2.BaseTransport]


def over_gevent(tls: ssl.SSLContext, proxies: Mapping[str, str]) -> httpx2.BaseTransport:
    return GeventTransport(proxies=proxies, tls=lambda: tls)


def over_threads(tls: ssl.SSLContext, proxies: Mapping[str, str]) -> httpx2.BaseTransport:
    proxy = next(iter(proxies.values()), None)
    return httpx2.HTTPTransport(verify=tls, proxy=proxy)


over_both_transports = check_each("make", [over_gevent, over_threads])

NO_AUTHORITIES: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts no authority."""


def describe_failure(
    make: Make,
    url: str,
    tls: ssl.SSLContext = NO_AUTHORITIES,
    proxies: Mapping[str, str] | None = None,
) -> str:
    """Return the description of the error of a request to ``url``."""
    proxies = proxies or {}
    with (
        httpx2.Client(transport=make(tls, proxies), timeout=5) as client,
        pytest.raises((httpx2.TransportError, UnicodeError)) as failed,
    ):
        client.post(url, content=b"{}")
    return describe_connection_error(failed.value, url, proxies)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def make_tls_context(authority: Authority) -> ssl.SSLContext:
    context: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    return context


# -- names and connections ------------------------------------------------------------------------


@over_both_transports
@check_each("host", ["no-such-host.invalid", "x" * 64 + ".invalid"])
def test_a_host_name_that_cannot_be_resolved_is_named(make: Make, host: str) -> None:
    assert (
        describe_failure(make, f"http://{host}/v1") == f"the host name '{host}' cannot be resolved"
    )


@over_both_transports
def test_a_refused_connection_names_host_and_port(make: Make) -> None:
    port = find_unused_port()

    description = describe_failure(make, f"http://127.0.0.1:{port}/v1")

    assert description == f"127.0.0.1:{port} refused the connection"


@over_both_transports
def test_a_reset_connection_is_described(make: Make) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with run_server(script) as server:
        description = describe_failure(make, server.url)

    assert description == f"localhost:{server.port} reset the connection (does it expect https://?)"


@over_both_transports
def test_a_connection_that_closes_without_an_answer_is_described(make: Make) -> None:
    with run_server(lambda peer: peer.request() and None) as server:
        description = describe_failure(make, server.url)

    assert description.startswith(
        f"localhost:{server.port} closed the connection before its answer"
    )


@over_both_transports
@check_each("answer", [b"220 mail ready\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46"])
def test_an_answer_that_is_not_http_is_described(make: Make, answer: bytes) -> None:
    """The second is a TLS alert, with which some servers answer plain HTTP."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    with run_server(script) as server:
        description = describe_failure(make, server.url)

    expected = f"localhost:{server.port} did not answer in HTTP (does it expect https://?)"
    assert description == expected


@check_each(
    ("error", "start"),
    [
        (OSError(101, "Network is unreachable"), "there is no connection to up.test:80"),
        (ConnectionAbortedError(), "up.test:80 reset the connection"),
        (
            httpx2.LocalProtocolError("A header contains a line break."),
            "A header contains a line break.",
        ),
        (httpx2.ReadError(""), "the connection to up.test:80 broke (ReadError)"),
    ],
)
def test_other_connection_errors_are_described(error: Exception, start: str) -> None:
    assert describe_connection_error(error, "http://up.test/v1", {}).startswith(start)


def test_a_failure_that_is_its_own_cause_is_described() -> None:
    error = httpx2.ReadError("")
    error.__cause__ = error

    assert "ReadError" in describe_connection_error(error, "https://up.test", {})


def test_ipv6_address_is_in_brackets() -> None:
    description = describe_connection_error(ConnectionRefusedError(), "http://[::1]:8000/v1", {})

    assert description == "[::1]:8000 refused the connection"


# -- forbidden addresses --------------------------------------------------------------------------


def resolve_nothing(host: str, port: int) -> list[tuple[int, object]]:
    return []


def find_no_address(host: str, port: int) -> list[tuple[int, object]]:
    raise socket.gaierror(-2, "Name or service not known")


@check_each("threads", [False, True])
@check_each(
    ("lookup", "expected"),
    [
        (resolve_nothing, "inside.test:80 has no address that the forwarder may connect to"),
        (find_no_address, "the host name 'inside.test' cannot be resolved"),
    ],
)
def test_forbidden_address_and_unknown_name_have_different_descriptions(
    threads: bool, lookup: Callable[..., list[tuple[int, object]]], expected: str
) -> None:
    def make(tls: ssl.SSLContext, proxies: Mapping[str, str]) -> httpx2.BaseTransport:
        return PinnedTransport(lookup) if threads else GeventTransport(proxies={}, lookup=lookup)

    assert describe_failure(make, "http://inside.test/v1") == expected


# -- TLS ------------------------------------------------------------------------------------------

DAY = datetime.timedelta(days=1)


@over_both_transports
@check_each(
    ("certificate", "reason"),
    [
        ({"expires": -DAY}, "its certificate has expired"),
        ({"self_signed": True}, "its certificate is self-signed"),
    ],
)
def test_a_bad_certificate_names_the_check_that_failed(
    make: Make, certificate: dict[str, object], reason: str, authority: Authority
) -> None:
    tls = authority.server("localhost", **certificate)  # type: ignore[arg-type]
    with run_server(lambda peer: None, tls) as server:
        description = describe_failure(make, server.url, make_tls_context(authority))

    assert description.startswith(f"TLS with localhost:{server.port} failed: {reason}")


@over_both_transports
def test_an_unknown_authority_is_named_with_the_setting_that_helps(
    make: Make, authority: Authority
) -> None:
    with run_server(lambda peer: None, authority.server("localhost")) as server:
        description = describe_failure(make, server.url)

    assert "its certificate comes from an unknown authority" in description
    assert "SSL_CERT_FILE" in description


@over_both_transports
def test_a_certificate_for_another_host_is_described(make: Make, authority: Authority) -> None:
    with run_server(lambda peer: None, authority.server("example.org")) as server:
        description = describe_failure(make, server.url, make_tls_context(authority))

    assert description.endswith("its certificate is for another host name than 'localhost'")


@over_both_transports
def test_a_certificate_without_key_identifiers_is_described(
    make: Make, authority: Authority
) -> None:
    """Python 3.13 and newer check this by default."""
    strict = make_tls_context(authority)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    tls = authority.server("localhost", key_identifiers=False)
    with run_server(lambda peer: None, tls) as server:
        description = describe_failure(make, server.url, strict)

    assert (
        "a rule that Python 3.13 and newer enforce: Missing Authority Key Identifier" in description
    )


@over_both_transports
def test_the_tests_own_authority_passes_strict_checks(make: Make, authority: Authority) -> None:
    strict = make_tls_context(authority)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT

    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"hello")

    with (
        run_server(script, authority.server("localhost")) as server,
        httpx2.Client(transport=make(strict, {}), timeout=5) as client,
    ):
        assert client.get(server.url).text == "hello"


@over_both_transports
def test_plain_http_where_tls_was_expected_is_described(make: Make) -> None:
    with run_server(lambda peer: peer.send(b"HTTP/1.1 400 Bad\r\n\r\n")) as server:
        description = describe_failure(make, f"https://localhost:{server.port}/v1")

    assert "it answers in plain HTTP" in description
    assert "http://?" in description


@over_both_transports
def test_a_handshake_that_fails_names_openssl_s_reason(make: Make, authority: Authority) -> None:
    tls = authority.server("localhost")
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("AES256-SHA")  # this cipher needs an RSA key, the certificate has another type
    with run_server(lambda peer: None, tls) as server:
        description = describe_failure(make, server.url, make_tls_context(authority))

    assert "no protocol or cipher in common (sslv3 alert handshake failure)" in description


@check_each(
    ("reason", "expected"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it wants a client certificate"),
        ("BAD_RECORD_MAC", "bad record mac"),
    ],
)
def test_other_failures_of_tls_are_described(reason: str, expected: str) -> None:
    error = ssl.SSLError(1, "x")
    error.reason = reason

    description = describe_connection_error(error, "https://up.test", {})

    assert description == f"TLS with up.test:443 failed: {expected}"


# -- proxies --------------------------------------------------------------------------------------


@contextmanager
def serve_proxy(script: Callable[[Peer], None]) -> Iterator[dict[str, str]]:
    """The setting for a proxy with a password that behaves like ``script``."""
    with run_server(script) as server:
        address = f"http://user:pass@localhost:{server.port}"
        yield {"http": address, "https": address}


@over_both_transports
def test_a_proxy_that_cannot_be_reached_is_named_without_its_password(make: Make) -> None:
    port = find_unused_port()
    address = f"http://user:pass@127.0.0.1:{port}"

    description = describe_failure(make, "https://up.test/v1", proxies={"https": address})

    proxy = f"127.0.0.1:{port}"
    assert (
        description == f"the proxy http://{proxy} cannot be reached: {proxy} refused the connection"
    )


@over_both_transports
def test_a_proxy_whose_name_cannot_be_resolved_is_named(make: Make) -> None:
    description = describe_failure(
        make, "http://up.test/v1", proxies={"http": "http://u:p@proxy.invalid:3128"}
    )

    assert description == (
        "the proxy http://proxy.invalid:3128 cannot be reached: "
        "the host name 'proxy.invalid' cannot be resolved"
    )


@over_both_transports
def test_refusal_of_a_proxy_is_described(make: Make) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with serve_proxy(script) as proxies:
        description = describe_failure(make, "https://up.test/v1", proxies=proxies)
        assert description.startswith(f"the proxy {find_proxy('https://up.test', proxies)} refused")

    assert "to connect to up.test:443 (407 Proxy Authentication Required" in description
    assert "pass" not in description


@over_both_transports
def test_failure_behind_a_proxy_names_the_proxy(make: Make) -> None:
    with serve_proxy(lambda peer: peer.request() and None) as proxies:
        description = describe_failure(make, "http://up.test/v1", proxies=proxies)
        assert f"through the proxy {find_proxy('http://up.test', proxies)}" in description

    assert description.startswith("up.test:80 closed the connection")


def test_a_proxy_of_another_kind_is_described() -> None:
    proxies = {"http": "socks5://p:1"}

    assert "'socks5' are not supported" in describe_failure(
        over_gevent, "http://x", proxies=proxies
    )
    assert find_proxy("http://x", proxies) is None


# -- broken answers -------------------------------------------------------------------------------


@check_each(
    ("error", "expected"),
    [
        (ConnectionResetError(), "it was reset"),
        (httpx2.RemoteProtocolError("x"), "it was closed before the answer was complete"),
        (httpx2.StreamClosed(), "StreamClosed"),
    ],
)
def test_an_answer_that_breaks_off_is_described(error: Exception, expected: str) -> None:
    assert describe_broken_answer(error) == expected
