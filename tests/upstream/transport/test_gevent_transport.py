"""The transport below httpx2 and the SDK, against real servers."""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import gevent.ssl
import httpx2
import openai
import pytest

from forwarder.upstream.transport import gevent_transport
from forwarder.upstream.transport.gevent_transport import GeventTransport
from tests.helpers.certificates import Authority
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, Script, Server, encode_chunk, find_unused_port, run_server


def echo_body(peer: Peer) -> None:
    """Answer every request with its body."""
    while request := peer.request():
        peer.answer(request.partition(b"\r\n\r\n")[2])


@contextmanager
def open_client(timeout: float | None = 5.0, **settings: object) -> Iterator[httpx2.Client]:
    transport = GeventTransport(**{"proxies": {}, **settings})  # type: ignore[arg-type]
    with httpx2.Client(transport=transport, timeout=timeout) as client:
        yield client


def count_opened(client: httpx2.Client) -> int:
    transport = client._transport
    assert isinstance(transport, GeventTransport)
    return transport.opened_connections


# -- requests and responses -------------------------------------------------------------------


def test_request_and_response_are_transferred_unchanged() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer("grüße".encode(), b"X-One: 1", b"X-Two: a", b"X-Two: b", b"X-Empty:")

    with run_server(script) as server, open_client() as client:
        url = server.url + "/a%20b?c=d%26"
        response = client.post(url, content=b"\x00body", headers={"X-Mine": "ja"})

    assert response.status_code == 200
    assert response.http_version == "HTTP/1.1"
    assert response.content.decode() == "grüße"
    assert response.headers.get_list("x-two") == ["a", "b"]
    assert (response.headers["x-one"], response.headers["x-empty"]) == ("1", "")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a%20b?c=d%26 HTTP/1.1"
    assert b"Host: localhost:%d" % server.port in lines
    assert b"X-Mine: ja" in lines
    assert b"Content-Length: 5" in lines
    assert body == b"\x00body"


def test_a_body_of_unknown_length_goes_out_in_chunks() -> None:
    with run_server(echo_body) as server, open_client() as client:
        response = client.post(server.url, content=iter([b"ab", b"", b"cd"]))
        assert response.content == b"4\r\nabcd\r\n0\r\n\r\n"
        assert client.post(server.url, content=iter([])).content == b"0\r\n\r\n"
        assert count_opened(client) == 1


def test_large_bodies_are_transferred_in_both_directions() -> None:
    body = bytes(range(256)) * 20_000
    with run_server(echo_body) as server, open_client() as client:
        assert client.post(server.url, content=body).content == body


def test_interim_responses_are_skipped() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.02)
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            peer.answer(b"final")

    with run_server(script) as server, open_client() as client:
        for _ in range(2):
            response = client.get(server.url)
            assert (response.text, "link" in response.headers) == ("final", False)
        assert count_opened(client) == 1


def test_head_has_no_body_and_keeps_its_connection() -> None:
    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            if request.startswith(b"GET"):
                peer.send(b"hello")

    with run_server(script) as server, open_client() as client:
        response = client.head(server.url)
        assert (response.content, response.headers["content-length"]) == (b"", "5")
        assert client.get(server.url).content == b"hello"
        assert count_opened(client) == 1


def test_an_answer_before_the_whole_request_was_read_is_received() -> None:
    def script(peer: Peer) -> None:
        peer.file.readline()
        peer.send(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.server.wait()

    with run_server(script) as server, open_client(timeout=2) as client:
        gevent.spawn_later(0.1, server.go.set)
        assert client.post(server.url, content=b"x" * 20_000_000).status_code == 413


@check_each("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with run_server(echo_body) as server, open_client() as client:
        with pytest.raises(httpx2.LocalProtocolError):
            client.get(server.url, headers={"X-Mine": value})
        assert server.requests == []


def test_answer_with_non_ascii_header_is_read() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.answer(b"ok", b"X-Region: caf\xc3\xa9", b"X-Odd: \xff")

    with run_server(script) as server, open_client(max_connections=1) as client:
        for _ in range(2):
            answer = client.get(server.url)
            assert answer.text == "ok"
            assert answer.headers.raw[1:] == [(b"X-Region", b"caf\xc3\xa9"), (b"X-Odd", b"\xff")]
        assert count_opened(client) == 1


def test_other_schemes_are_refused() -> None:
    with open_client() as client, pytest.raises(httpx2.UnsupportedProtocol):
        client.get("ftp://localhost/")


# -- reuse of connections ---------------------------------------------------------------------


def test_requests_in_sequence_share_one_connection() -> None:
    with run_server(echo_body) as server, open_client() as client:
        for n in range(5):
            assert client.post(server.url, content=b"%d" % n).content == b"%d" % n

    assert server.connections == 1


def test_concurrent_requests_have_separate_connections() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            time.sleep(0.05)
            peer.answer(b"a")

    with run_server(script) as server, open_client() as client:
        for _ in range(2):
            running = [gevent.spawn(client.get, server.url) for _ in range(5)]
            assert [greenlet.get(timeout=5).text for greenlet in running] == ["a"] * 5

    assert server.connections == 5


def test_each_server_has_its_own_connections() -> None:
    with run_server(echo_body) as first, run_server(echo_body) as second, open_client() as client:
        for _ in range(2):
            client.post(first.url)
            client.post(second.url)

    assert (first.connections, second.connections) == (1, 1)


every_ending = check_each("ending", [Peer.close, Peer.reset], ids=["close", "reset"])


def closing_once(close: Script) -> Script:
    """Close when the second request comes, too late for any check before; then serve."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"hello")
        if peer.server.connections == 1:
            peer.request()
            close(peer)
        else:
            echo_body(peer)

    return script


@every_ending
@check_each(("method", "resend_posts"), [("POST", True), ("GET", False), ("DELETE", False)])
def test_idle_connection_closed_by_the_server_is_replaced(
    method: str, resend_posts: bool, ending: Script
) -> None:
    with (
        run_server(closing_once(ending)) as server,
        open_client(resend_posts=resend_posts) as client,
    ):
        client.get(server.url)
        assert client.request(method, server.url).text == "hello"
        assert server.requests[1] == server.requests[2]
        assert count_opened(client) == 2


@every_ending
def test_a_post_is_not_sent_twice_unless_retries_are_on(ending: Script) -> None:
    """The server may have read it before it closed."""
    with run_server(closing_once(ending)) as server, open_client() as client:
        client.get(server.url)
        with pytest.raises(httpx2.TransportError):
            client.post(server.url, content=b"once")
        assert len(server.requests) == 2


@check_each("ending", [Peer.close, Peer.reset], ids=["close", "reset"])
def test_request_is_not_repeated_after_the_server_began_to_work(
    ending: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server had the request for a while, so the connection was not stale."""
    monkeypatch.setattr(gevent_transport, "_STALE_SECONDS", 0.1)

    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"hello")
        peer.request()
        time.sleep(0.15)
        ending(peer)

    with run_server(script) as server, open_client(resend_posts=True) as client:
        client.get(server.url)
        with pytest.raises(httpx2.TransportError):
            client.post(server.url, content=b"once")
        assert len(server.requests) == 2


def test_request_is_repeated_at_most_once() -> None:
    """The server answers the very first request and closes on all others."""

    def script(peer: Peer) -> None:
        peer.request()
        if peer.server.connections == 1:
            peer.answer(b"hello")
            peer.request()

    with run_server(script) as server, open_client(resend_posts=True) as client:
        client.get(server.url)
        with pytest.raises(httpx2.RemoteProtocolError):
            client.post(server.url, content=b"again")
        assert len(server.requests) == 3


def test_closed_connection_is_not_replaced_by_another_closed_one() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        time.sleep(0.05)
        peer.answer(b"hello")
        peer.request()

    with run_server(script) as server, open_client() as client:
        running = [gevent.spawn(client.get, server.url) for _ in range(2)]
        gevent.joinall(running, timeout=5)
        assert client.get(server.url).text == "hello"
        assert count_opened(client) == 3


def test_request_is_not_repeated_after_a_fresh_connection_closed() -> None:
    with run_server(lambda peer: peer.request() and None) as server, open_client() as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            client.post(server.url, content=b"once")
        assert server.connections == 1


def test_request_with_a_partial_answer_is_not_repeated() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b"hello")
        peer.request()
        peer.send(b"HTTP/1.1 2")

    with run_server(script) as server, open_client() as client:
        client.get(server.url)
        with pytest.raises(httpx2.RemoteProtocolError):
            client.get(server.url)
        assert server.connections == 1


def test_connection_close_of_the_server_is_honoured() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.answer(b"a", b"Connection: close")

    with run_server(script) as server, open_client() as client:
        client.get(server.url)
        client.get(server.url)
        assert count_opened(client) == 2


# -- failures ---------------------------------------------------------------------------------


def never_answer(peer: Peer) -> None:
    peer.server.wait()


def test_a_refused_connection_is_a_connect_error() -> None:
    with open_client() as client, pytest.raises(httpx2.ConnectError):
        client.get(f"http://localhost:{find_unused_port()}")


def test_no_answer_is_a_read_time_out() -> None:
    with (
        run_server(never_answer) as server,
        open_client(timeout=0.1) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.get(server.url)


def test_heartbeats_do_not_lengthen_the_wait_for_an_answer() -> None:
    with (
        run_server(never_answer) as server,
        open_client(timeout=0.1, heartbeat=0.02) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.get(server.url)


def test_a_server_that_does_not_read_is_a_write_time_out() -> None:
    with (
        run_server(never_answer) as server,
        open_client(timeout=0.2) as client,
        pytest.raises(httpx2.WriteTimeout),
    ):
        client.post(server.url, content=b"x" * 20_000_000)


def test_a_reset_is_a_read_error() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with (
        run_server(script) as server,
        open_client() as client,
        pytest.raises(httpx2.ReadError),
    ):
        client.get(server.url)


def test_non_http_answer_is_a_protocol_error() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"220 mail ready\r\n")

    with (
        run_server(script) as server,
        open_client() as client,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        client.get(server.url)


def test_failed_request_releases_its_connection_slot() -> None:
    def script(peer: Peer) -> None:
        if b"/good" in peer.request():
            peer.answer(b"good")

    with run_server(script) as server, open_client(timeout=0.5, max_connections=1) as client:
        for _ in range(3):
            with pytest.raises(httpx2.RemoteProtocolError):
                client.get(server.url)
        assert client.get(server.url + "/good").text == "good"


def test_killed_request_releases_its_connection_slot() -> None:
    def script(peer: Peer) -> None:
        if b"/good" in peer.request():
            peer.answer(b"good")
        else:
            peer.server.wait()

    with run_server(script) as server, open_client(timeout=2, max_connections=1) as client:
        running = gevent.spawn(client.get, server.url)
        gevent.sleep(0.05)
        running.kill()
        assert client.get(server.url + "/good").text == "good"


def test_too_many_requests_at_once_wait_and_then_time_out() -> None:
    limits = httpx2.Timeout(2, pool=0.05)
    with (
        run_server(never_answer) as server,
        open_client(timeout=limits, max_connections=1) as client,
    ):  # type: ignore[arg-type]
        running = gevent.spawn(client.get, server.url)
        gevent.sleep(0.02)
        with pytest.raises(httpx2.PoolTimeout):
            client.get(server.url)
        running.kill()


# -- TLS --------------------------------------------------------------------------------------


def make_tls_context(authority: Authority) -> ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_tls_is_spoken_and_its_connections_are_kept(authority: Authority) -> None:
    with (
        run_server(echo_body, authority.server("localhost")) as server,
        open_client(tls=lambda: make_tls_context(authority)) as client,
    ):
        for size in (1, 100_000, 2):
            assert client.post(server.url, content=b"x" * size).content == b"x" * size
        assert count_opened(client) == 1


def test_certificate_of_an_unknown_authority_is_a_connect_error(authority: Authority) -> None:
    with (
        run_server(echo_body, authority.server("localhost")) as server,
        open_client(tls=lambda: gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client,
    ):
        with pytest.raises(httpx2.ConnectError):
            client.post(server.url)
        assert server.requests == []


@check_each("headers", [b"Transfer-Encoding: chunked", b"X-Length: none"])
def test_stream_over_tls_arrives_completely(headers: bytes, authority: Authority) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n")
        encode = encode_chunk if b"chunked" in headers else bytes
        for n in range(300):
            peer.send(encode(b"%d " % n))
            if n % 100 == 0:
                time.sleep(0.02)
        if b"chunked" in headers:
            peer.send(encode_chunk(b""))

    with (
        run_server(script, authority.server("localhost")) as server,
        open_client(tls=lambda: make_tls_context(authority), heartbeat=0.005) as client,
        client.stream("GET", server.url) as response,
    ):
        pieces = list(response.extensions["chunk_reader"])

    assert b"".join(pieces) == b"".join(b"%d " % n for n in range(300))
    assert len([piece for piece in pieces if piece]) < 200
    assert b"" in pieces


def test_a_stream_over_tls_that_is_cut_is_an_error(authority: Authority) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.start_chunked()
        peer.send(encode_chunk(b"a"))

    with (
        run_server(script, authority.server("localhost")) as server,
        open_client(tls=lambda: make_tls_context(authority)) as client,
        client.stream("GET", server.url) as response,
    ):
        pieces: list[bytes] = []
        with pytest.raises(httpx2.RemoteProtocolError):
            pieces.extend(response.extensions["chunk_reader"])

    assert pieces == [b"a"]


# -- proxies ----------------------------------------------------------------------------------


def make_tunnel(target: Server) -> Script:
    """A proxy that connects every client to ``target``."""

    def script(peer: Peer) -> None:
        peer.request()
        with socket.create_connection(("127.0.0.1", target.port)) as target_socket:
            peer.send(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
            copy_both_ways(peer.sock, target_socket)

    return script


def copy_both_ways(one: socket.socket, two: socket.socket) -> None:
    """Copy bytes in both directions until one side ends."""
    one.settimeout(0.02)
    two.settimeout(0.02)
    while True:
        for source, sink in ((one, two), (two, one)):
            try:
                data = source.recv(65536)
            except TimeoutError:
                continue
            if not data:
                return
            sink.sendall(data)


def proxy_url(server: Server, user: str = "") -> str:
    return f"http://{user}localhost:{server.port}"


def test_plain_request_is_sent_to_the_proxy_with_its_absolute_url() -> None:
    with run_server(echo_body) as proxy:
        settings = {"http": proxy_url(proxy, "us%40er:pa%20ss@")}
        with open_client(proxies=settings) as client:
            for _ in range(2):
                assert client.post("http://far.example:81/a?b=c", content=b"hi").text == "hi"
            assert count_opened(client) == 1
    lines = proxy.requests[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0] == b"POST http://far.example:81/a?b=c HTTP/1.1"
    assert b"Host: far.example:81" in lines
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"us@er:pa ss") in lines


def test_a_tls_request_goes_through_a_tunnel(authority: Authority) -> None:
    with (
        run_server(echo_body, authority.server("far.example")) as target,
        run_server(make_tunnel(target)) as proxy,
        open_client(
            proxies={"https": proxy_url(proxy, "user:pass@")},
            tls=lambda: make_tls_context(authority),
        ) as client,
    ):
        for _ in range(2):
            assert client.post("https://far.example/a", content=b"hi").text == "hi"

    (tunnel,) = proxy.requests
    assert tunnel.startswith(b"CONNECT far.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:pass") in tunnel
    assert len(target.requests) == 2
    assert b"Proxy-Authorization" not in target.requests[0]
    assert target.requests[0].startswith(b"POST /a HTTP/1.1")


def test_a_proxy_that_refuses_is_a_proxy_error(authority: Authority) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    with (
        run_server(script) as proxy,
        open_client(
            proxies={"all": proxy_url(proxy)}, tls=lambda: make_tls_context(authority)
        ) as client,
        pytest.raises(httpx2.ProxyError, match="407"),
    ):
        client.get("https://far.example/")


def test_proxy_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with run_server(echo_body) as proxy, run_server(echo_body) as direct:
        monkeypatch.setenv("HTTP_PROXY", proxy_url(proxy))
        monkeypatch.setenv("NO_PROXY", "localhost")
        with open_client(proxies=None) as client:
            client.post("http://far.example/")
            client.post(direct.url)

    assert (len(proxy.requests), len(direct.requests)) == (1, 1)


# -- under the SDK ----------------------------------------------------------------------------


@contextmanager
def sdk(url: str, **settings: object) -> Iterator[openai.OpenAI]:
    with open_client(**settings) as client:  # type: ignore[arg-type]
        yield openai.OpenAI(
            api_key="k", base_url=url, http_client=client, max_retries=0, timeout=0.2
        )


def post(client: openai.OpenAI) -> httpx2.Response:
    return client.post(
        "/chat/completions",
        content=b"{}",
        cast_to=httpx2.Response,
        stream=True,
        stream_cls=openai.Stream[object],
    )  # type: ignore[return-value]


def test_sdk_returns_an_unread_response() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.start_chunked()
            peer.send(encode_chunk(b"data: {}\n\n"))
            time.sleep(0.05)
            peer.send(encode_chunk(b"data: [DONE]\n\n"), encode_chunk(b""))

    with run_server(script) as server, sdk(server.url, heartbeat=1.0) as client:
        for _ in range(2):
            arrivals = list(post(client).extensions["chunk_reader"])
            assert b"".join(arrivals) == b"data: {}\n\ndata: [DONE]\n\n"
    assert server.connections == 1


def test_the_sdk_reads_an_error_through_the_transport() -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            body = b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}'
            peer.send(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n")
            peer.send(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            peer.send(body)

    with (
        run_server(script) as server,
        sdk(server.url, heartbeat=1.0) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        post(client)
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "7"


def close_without_answer(peer: Peer) -> None:
    peer.request()


@check_each(
    ("script", "error"),
    [(never_answer, openai.APITimeoutError), (close_without_answer, openai.APIConnectionError)],
    ids=["silent", "closing"],
)
def test_failure_becomes_the_error_of_the_sdk(script: Script, error: type[Exception]) -> None:
    with (
        run_server(script) as server,
        sdk(server.url, heartbeat=0.05) as client,
        pytest.raises(error),
    ):
        post(client)


def test_refused_connection_becomes_the_error_of_the_sdk() -> None:
    with (
        sdk(f"http://localhost:{find_unused_port()}") as client,
        pytest.raises(openai.APIConnectionError),
    ):
        post(client)


def test_incomplete_error_body_is_a_read_timeout_behind_the_sdk() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nabc")
        peer.server.wait()

    with (
        run_server(script) as server,
        sdk(server.url, heartbeat=0.05) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        post(client)


# -- forbidden addresses ----------------------------------------------------------------------


def test_transport_connects_only_to_addresses_of_its_lookup() -> None:
    lookups: list[tuple[str, int]] = []

    def lookup(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        lookups.append((host, port))
        return [(socket.AF_INET, ("127.0.0.1", port))] if len(lookups) == 1 else []

    with run_server(echo_body) as server, open_client(lookup=lookup) as client:
        port = httpx2.URL(server.url).port
        url = f"http://nowhere.invalid:{port}/"
        assert client.post(url, content=b"hi").text == "hi"
        client._transport.close()  # a second lookup returns another host
        with pytest.raises(httpx2.ConnectError):
            client.post(url, content=b"hi")

    assert lookups == [("nowhere.invalid", port)] * 2
    assert len(server.requests) == 1


# -- hostile upstreams --------------------------------------------------------------------------


def get_from_hostile_server(script: Script, timeout: float = 5.0) -> None:
    with run_server(script) as server, open_client(timeout) as client:
        client.get(server.url)


@check_each(
    "head",
    [
        b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)),
        b"X-Long: " + b"y" * 70_000 + b"\r\n",
        b"X-" + b"y" * 70_000 + b": 1\r\n",
    ],
    ids=["many", "long", "name"],
)
def test_a_head_has_a_limit(head: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 0\r\n\r\n")

    with pytest.raises(httpx2.RemoteProtocolError, match="65536 bytes"):
        get_from_hostile_server(script)


def test_trailers_have_a_limit() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
        peer.send(b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)) + b"\r\n")

    with pytest.raises(httpx2.RemoteProtocolError, match="65536 bytes"):
        get_from_hostile_server(script)


def test_interim_answers_have_a_limit() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 17)
        peer.answer(b"final")

    with pytest.raises(httpx2.RemoteProtocolError, match="too many interim answers"):
        get_from_hostile_server(script)


def test_white_space_before_an_answer_has_a_limit() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"\r\n" * 100_000)
        peer.answer(b"late")

    with pytest.raises(httpx2.RemoteProtocolError):
        get_from_hostile_server(script)


def test_response_head_has_one_deadline() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        for letter in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
            peer.send(bytes([letter]))
            time.sleep(0.03)

    with pytest.raises(httpx2.ReadTimeout):
        get_from_hostile_server(script, timeout=0.15)
