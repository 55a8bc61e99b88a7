"""Upstreams that fail before they answer, over real HTTP: retries and fallbacks."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.fake_provider import Answer, Pause, ScriptedUpstream, Stream, faults
from tests.fake_provider.faults import Scripted
from tests.helpers.loopback import find_unused_port
from tests.helpers.waiting import wait_until
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server, find_free_port
from tests.live.talk import PATHS, Json, http, make_body, send_request
from tests.live.test_faults import read_text_so_far
from tests.live.test_service import find_log_line

every_client = pytest.mark.parametrize("client", PATHS)
every_upstream = pytest.mark.parametrize("upstream_api", PATHS)
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

TEXT = "Served all the same."
OTHER = {"chat": "responses", "responses": "chat"}


def request_bytes(client: str, body: Json) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1{PATHS[client]} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


@contextmanager
def open_connection(server: Server, data: bytes) -> Iterator[socket.socket]:
    """A connection with this request, closed at the end without reading the answer."""
    url = urlsplit(server.url)
    with socket.create_connection((str(url.hostname), url.port or 80), timeout=5) as sock:
        sock.sendall(data)
        yield sock


# -- fallbacks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spare_upstream() -> Iterator[ScriptedUpstream]:
    """A second provider, which stays well."""
    with ScriptedUpstream(keys={KEY}) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def fallback_forwarder(
    serve: Serve, upstream: ScriptedUpstream, spare_upstream: ScriptedUpstream
) -> Server:
    """Upstreams that fall back to one that is not there, and then to one of the other protocol."""
    unreachable_url = f"http://127.0.0.1:{find_unused_port()}/v1"
    other_settings = {
        name: value
        for protocol in PATHS
        for name, value in {
            f"SPARE_{protocol}_BASE_URL": spare_upstream.url,
            f"SPARE_{protocol}_API_KEY": KEY,
            f"SPARE_{protocol}_API": protocol,
            f"{protocol}_FALLBACK": f"gone,spare_{OTHER[protocol]}/other",
            f"{protocol}_FIRST_BYTE_TIMEOUT": "0.5",
            f"{protocol}_WHOLE_TIMEOUT": "0.5",
        }.items()
    }
    return serve(
        make_settings(
            upstream,
            FORWARDER_UPSTREAMS="chat,responses,spare_chat,spare_responses,gone,wrong",
            GONE_BASE_URL=unreachable_url,
            GONE_BREAKER_FAILURES="0",
            GONE_FALLBACK="spare_chat",
            WRONG_BASE_URL=upstream.url,
            WRONG_API_KEY="sk-wrong",
            WRONG_FALLBACK="spare_responses",
            **{name.upper(): value for name, value in other_settings.items()},
        )
    )


FAILING = {
    "silent": faults.never_answer(),
    "html_502": faults.answer_with_html(502),
    "html_200": faults.answer_with_html(),
    "error_in_200": faults.error_in_200(),
    "cut_at_once": faults.cut_connection(Answer(text="x"), after=0),
    **{f"status_{code}": faults.refuse_with_status(code) for code in (429, 500, 503)},
}


@every_client
@every_upstream
@either
@pytest.mark.parametrize("name", FAILING)
def test_the_other_protocol_serves_when_one_fails(
    client: str,
    upstream_api: str,
    stream: bool,
    name: str,
    fallback_forwarder: Server,
    upstream: ScriptedUpstream,
    spare_upstream: ScriptedUpstream,
) -> None:
    if name == "cut_at_once" and not stream and client == upstream_api:
        name = "html_200"  # a whole answer has no first event
    upstream.script(FAILING[name])
    spare_upstream.script(Answer(text=TEXT, reasoning="Hm."))

    response = send_request(
        fallback_forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.ending == "completed"
    assert response.content.text.endswith(TEXT)
    assert response.headers["x-forwarder-upstream"] == f"spare_{OTHER[upstream_api]}"
    assert [request.path for request in upstream.requests] == [f"/v1{PATHS[upstream_api]}"]
    assert spare_upstream.requests[-1].path == f"/v1{PATHS[OTHER[upstream_api]]}"
    assert spare_upstream.requests[-1].body["model"] == "other"
    if client == upstream_api:
        assert response.mistakes == []


@every_client
@pytest.mark.parametrize(
    ("failing_upstream", "fallback"), [("gone", "spare_chat"), ("wrong", "spare_responses")]
)
def test_fallback_replaces_an_upstream_that_is_unreachable_or_refuses_the_key(
    client: str, failing_upstream: str, fallback: str, fallback_forwarder: Server
) -> None:
    response = send_request(
        fallback_forwarder, client, make_body(client, model=f"{failing_upstream}/m", stream=True)
    )

    assert response.ending == "completed"
    line = find_log_line(fallback_forwarder, response)
    assert (line["upstream"], line["failed"], line["model"]) == (fallback, [failing_upstream], "m")


@every_client
@pytest.mark.parametrize("code", [400, 403, 404])
def test_a_refused_request_has_no_fallback(
    client: str,
    code: int,
    fallback_forwarder: Server,
    upstream: ScriptedUpstream,
    spare_upstream: ScriptedUpstream,
) -> None:
    upstream.script(faults.refuse_with_status(code))
    spare_upstream.requests.clear()

    response = send_request(fallback_forwarder, client, make_body(client, model="chat/m"))

    assert response.status == code
    assert response.headers["x-forwarder-upstream"] == "chat"
    assert spare_upstream.requests == []


@every_client
def test_first_error_is_returned_if_all_upstreams_fail(
    client: str,
    fallback_forwarder: Server,
    upstream: ScriptedUpstream,
    spare_upstream: ScriptedUpstream,
) -> None:
    upstream.script(faults.refuse_with_status(429, retry_after=9))
    spare_upstream.script(faults.refuse_with_status(400))

    response = send_request(
        fallback_forwarder, client, make_body(client, model="chat/m", stream=True)
    )

    assert response.status == 429
    assert response.headers["retry-after"] == "9"
    assert response.headers["x-forwarder-upstream"] == "chat"


@every_client
@every_upstream
def test_nothing_is_retried_after_the_first_byte(
    client: str,
    upstream_api: str,
    fallback_forwarder: Server,
    upstream: ScriptedUpstream,
    spare_upstream: ScriptedUpstream,
) -> None:
    upstream.script(faults.cut_connection(Answer(text=TEXT, pieces=8), after=8, reset=False))
    spare_upstream.requests.clear()

    response = send_request(
        fallback_forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=True)
    )

    assert response.status == 200
    assert response.ending == "failed"
    assert TEXT.startswith(read_text_so_far(response))
    assert read_text_so_far(response)
    assert spare_upstream.requests == []
    assert len(upstream.requests) == 1


# -- retries --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def retrying(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder that tries twice more, within two seconds."""
    retries = {f"{name}_MAX_RETRIES": "2" for name in ("CHAT", "RESPONSES")}
    waits = {f"{name}_RETRY_WAIT": "2" for name in ("CHAT", "RESPONSES")}
    return serve(make_settings(upstream, FORWARDER_KEEPALIVE="0.2", **retries, **waits))


def make_busy_answer(code: int = 503, milliseconds: int = 1) -> Scripted:
    return faults.refuse_with_status(code, headers={"retry-after-ms": str(milliseconds)})


@every_client
@every_upstream
@either
@pytest.mark.parametrize("name", ["status", "html_200", "cut_at_once"])
def test_failure_before_the_first_event_is_retried(
    client: str,
    upstream_api: str,
    stream: bool,
    name: str,
    retrying: Server,
    upstream: ScriptedUpstream,
) -> None:
    if name == "cut_at_once" and not stream and client == upstream_api:
        name = "html_200"  # a whole answer has no first event
    upstream.script({**FAILING, "status": make_busy_answer()}[name], Answer(text=TEXT))

    response = send_request(
        retrying, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert response.ending == "completed"
    assert response.content.text == TEXT
    assert len(upstream.requests) == 2
    assert find_log_line(retrying, response)["retries"] == 1


def test_retry_after_is_waited_for(retrying: Server, upstream: ScriptedUpstream) -> None:
    upstream.script(make_busy_answer(429, 600), Answer(text=TEXT))
    started = time.monotonic()

    response = send_request(retrying, "chat", make_body("chat", model="chat/m"))

    assert response.content.text == TEXT
    assert 0.6 <= time.monotonic() - started < 2


def test_a_long_retry_after_is_passed_to_the_client(
    retrying: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.refuse_with_status(429, retry_after=60))

    response = send_request(retrying, "chat", make_body("chat", model="chat/m"))

    assert (response.status, response.headers["retry-after"]) == (429, "60")
    assert len(upstream.requests) == 1


def test_retries_come_to_an_end(retrying: Server, upstream: ScriptedUpstream) -> None:
    upstream.script(make_busy_answer(), make_busy_answer(), make_busy_answer(500))

    response = send_request(
        retrying, "responses", make_body("responses", model="chat/m", stream=True)
    )

    assert response.status == 500
    assert len(upstream.requests) == 3


@every_client
def test_retries_stop_when_the_client_disconnects(
    client: str, retrying: Server, upstream: ScriptedUpstream
) -> None:
    upstream.script(make_busy_answer(503, 700))
    body = make_body(client, model="chat/m", stream=True)

    with open_connection(retrying, request_bytes(client, body)):
        assert wait_until(lambda: len(upstream.requests) == 1)
    time.sleep(1)

    assert len(upstream.requests) == 1


# -- breakers -------------------------------------------------------------------------------------


@pytest.fixture
def failing() -> Iterator[ScriptedUpstream]:
    """An upstream of its own for one test."""
    with ScriptedUpstream() as scripted:
        yield scripted


def serve_with_breaker(serve: Serve, url: str, **settings: str) -> Server:
    """A forwarder that leaves its one upstream alone after three failures, for half a second."""
    return serve(
        {
            "FORWARDER_UPSTREAMS": "up",
            "FORWARDER_READY_TTL": "0",
            "UP_BASE_URL": url,
            "UP_BREAKER_FAILURES": "3",
            "UP_BREAKER_COOLDOWN": "0.5",
            **settings,
        }
    )


def test_an_open_breaker_protects_the_upstream_from_requests(
    serve: Serve, failing: ScriptedUpstream
) -> None:
    server = serve_with_breaker(serve, failing.url, UP_BREAKER_COOLDOWN="30", UP_MAX_RETRIES="2")
    failing.script(*[faults.hang_up()] * 300)
    for _ in range(3):
        send_request(server, "chat", make_body("chat"))
    request_count = len(failing.requests)

    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(lambda _: send_request(server, "chat", make_body("chat")), range(60))
        )

    assert request_count == 3
    assert len(failing.requests) == request_count
    for response in answers:
        assert (response.status, response.error["code"]) == (503, "upstream_unavailable")
        assert 1 <= int(response.headers["retry-after"]) <= 30
    ready = http.get(f"{server.url}/ready?verbose")
    assert ready.status_code == 503
    standing = ready.json()["upstreams"]["up"]["resilience"]
    assert standing["breaker"] == "open"
    assert (standing["attempts"], standing["refused"]) == (3, 62)


@every_client
def test_an_upstream_recovers_after_an_outage(client: str, serve: Serve) -> None:
    port = find_free_port()
    server = serve_with_breaker(serve, f"http://127.0.0.1:{port}/v1")

    codes = [send_request(server, client, make_body(client)).error["code"] for _ in range(5)]
    assert codes == ["upstream_unreachable"] * 3 + ["upstream_unavailable"] * 2
    assert http.get(f"{server.url}/ready").status_code == 503

    with ScriptedUpstream(port=port) as recovered:
        assert wait_until(lambda: send_request(server, client, make_body(client)).status == 200)
        assert {send_request(server, client, make_body(client)).status for _ in range(5)} == {200}
        assert http.get(f"{server.url}/ready").status_code == 200
        request_count = len(recovered.requests)
    assert request_count >= 6

    assert send_request(server, client, make_body(client)).error["code"] == "upstream_unreachable"


def test_one_trial_request_tests_a_recovering_upstream(
    serve: Serve, failing: ScriptedUpstream
) -> None:
    server = serve_with_breaker(serve, failing.url, UP_BREAKER_COOLDOWN="2")
    failing.script(*[faults.hang_up()] * 3, Stream(Answer(text=TEXT), before=Pause(1.5)))
    for _ in range(3):
        send_request(server, "chat", make_body("chat"))
    failing.requests.clear()
    time.sleep(2.1)

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: send_request(server, "chat", make_body("chat")), range(8))
        )

    statuses = Counter(response.status for response in answers)
    assert statuses == {200: 1, 503: 7}
    assert len(failing.requests) == 1


BAD_ANSWERS = {
    "status_500": faults.refuse_with_status(500),
    "status_503": faults.refuse_with_status(503),
    "html_200": faults.answer_with_html(),
    "cut_at_once": faults.cut_connection(Answer(text="x"), after=0),
}


@every_client
@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_failing_prompt_of_one_client_does_not_open_the_breaker(
    client: str, name: str, serve: Serve, failing: ScriptedUpstream
) -> None:
    server = serve_with_breaker(serve, failing.url, UP_BREAKER_COOLDOWN="30")
    failing.script(*[BAD_ANSWERS[name]] * 30, Answer(text=TEXT))
    for _ in range(30):
        assert send_request(server, client, make_body(client, stream=True)).ending == "failed"

    assert send_request(server, client, make_body(client)).content.text == TEXT
    assert http.get(f"{server.url}/ready").status_code == 200


def test_failures_of_two_clients_open_the_breaker_with_a_fallback(
    serve: Serve, failing: ScriptedUpstream, spare_upstream: ScriptedUpstream
) -> None:
    server = serve_with_breaker(
        serve,
        failing.url,
        FORWARDER_UPSTREAMS="up,spare",
        FORWARDER_API_KEYS="key-one,key-two",
        UP_FALLBACK="spare",
        UP_BREAKER_COOLDOWN="30",
        SPARE_BASE_URL=spare_upstream.url,
        SPARE_API_KEY=KEY,
    )

    def served_by_spare(key: str) -> int:
        """How many requests reach the first upstream, of four that the second one answers."""
        failing.requests.clear()
        failing.script(*[faults.refuse_with_status(500)] * 4)
        for _ in range(4):
            body = make_body("chat", model="up/m")
            response = send_request(server, "chat", body, Authorization=f"Bearer {key}")
            assert response.headers["x-forwarder-upstream"] == "spare"
        return len(failing.requests)

    assert served_by_spare("key-one") == 4
    assert served_by_spare("key-two") == 1


# -- limits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow_forwarder(serve: Serve, upstream: ScriptedUpstream) -> Server:
    """A forwarder that takes two requests at once, of which one may be for ``chat``."""
    return serve(
        make_settings(
            upstream,
            FORWARDER_MAX_CONCURRENT="2",
            FORWARDER_KEEPALIVE="0.1",
            CHAT_MAX_CONCURRENT="1",
            CHAT_IDLE_TIMEOUT="0.5",
            RESPONSES_FALLBACK="chat",
        )
    )


def script_long_answer(upstream: ScriptedUpstream) -> None:
    upstream.script(faults.slow_down(Answer(text="word " * 500, pieces=500), delay=0.02))


@every_client
@either
def test_request_over_the_concurrency_limit_is_refused_at_once(
    client: str, stream: bool, narrow_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    script_long_answer(upstream)
    body = make_body("chat", model="responses/m", stream=True)
    with open_connection(narrow_forwarder, request_bytes("chat", body)) as one:
        assert b"200" in one.recv(64)
        script_long_answer(upstream)
        with open_connection(narrow_forwarder, request_bytes("chat", body)) as two:
            assert b"200" in two.recv(64)
            refusal = send_request(
                narrow_forwarder, client, make_body(client, model="responses/m", stream=stream)
            )

    assert (refusal.status, refusal.error["code"]) == (503, "overloaded")
    assert refusal.headers["retry-after"] == "1"
    assert len(upstream.requests) == 2
    assert wait_until(
        lambda: send_request(narrow_forwarder, client, make_body(client)).status == 200
    )


def test_request_over_the_limit_of_an_upstream_is_refused(
    narrow_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    script_long_answer(upstream)
    with open_connection(
        narrow_forwarder, request_bytes("chat", make_body("chat", model="chat/m", stream=True))
    ) as one:
        assert b"200" in one.recv(64)
        refusal = send_request(narrow_forwarder, "chat", make_body("chat", model="chat/m"))
        answer = send_request(narrow_forwarder, "chat", make_body("chat", model="responses/m"))

    assert (refusal.status, refusal.error["code"]) == (503, "overloaded")
    assert "'chat'" in refusal.error["message"]
    assert answer.status == 200
    assert wait_until(
        lambda: (
            send_request(narrow_forwarder, "chat", make_body("chat", model="chat/m")).status == 200
        )
    )


ENDINGS = {
    "answered": Answer(text=TEXT),
    "refused": faults.refuse_with_status(400),
    "busy": faults.refuse_with_status(503),
    "cut": faults.cut_connection(Answer(text=TEXT, pieces=4), after=4),
    "stalled": faults.stall(Answer(text=TEXT), after=3),
    "empty": faults.make_empty_answer(),
}


@every_client
@either
@pytest.mark.parametrize("name", ENDINGS)
def test_concurrency_slot_is_released_after_every_ending(
    client: str, stream: bool, name: str, narrow_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    for _ in range(3):  # more than there are places
        upstream.script(ENDINGS[name])
        response = send_request(
            narrow_forwarder, client, make_body(client, model="chat/m", stream=stream)
        )
        assert "at once" not in response.text
        assert (
            send_request(narrow_forwarder, client, {**make_body(client), "model": 5}).status == 400
        )

    state = http.get(f"{narrow_forwarder.url}/ready?verbose").json()["upstreams"]["chat"][
        "resilience"
    ]
    assert state["concurrent"] == 0


@every_client
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_concurrency_slot_is_released_when_the_client_disconnects(
    client: str, stream: bool, narrow_forwarder: Server, upstream: ScriptedUpstream
) -> None:
    for _ in range(3):
        upstream.script(faults.never_answer(5))
        body = make_body(client, model="chat/m", stream=stream)
        request_count = len(upstream.requests)
        with open_connection(narrow_forwarder, request_bytes(client, body)):
            assert wait_until(
                lambda request_count=request_count: len(upstream.requests) > request_count
            )
        assert upstream.requests[-1].closed_by_client.wait(2)

    assert wait_until(
        lambda: (
            send_request(narrow_forwarder, client, make_body(client, model="chat/m")).status == 200
        )
    )


@pytest.mark.parametrize(
    "headers",
    [{"x-long": "x" * 20_000}, {f"x-{i}": "y" for i in range(200)}],
    ids=["long", "many"],
)
def test_headers_are_limited(headers: dict[str, str], narrow_forwarder: Server) -> None:
    response = send_request(narrow_forwarder, "chat", make_body("chat"), **headers)

    assert 400 <= response.status < 500
    assert send_request(narrow_forwarder, "chat", make_body("chat")).status == 200


# -- time-outs, beside those for the first byte and for silence in test_faults.py -----------------


@contextmanager
def listen_without_accepting() -> Iterator[str]:
    """An address with a full backlog: connections to it are never accepted."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        clients = [socket.socket() for _ in range(4)]
        for sock in clients:
            sock.setblocking(False)
            sock.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}/v1"
        for sock in clients:
            sock.close()


@every_client
def test_connecting_and_the_whole_answer_have_separate_time_limits(
    client: str, serve: Serve, upstream: ScriptedUpstream
) -> None:
    with listen_without_accepting() as url:
        server = serve(
            make_settings(
                upstream,
                FORWARDER_UPSTREAMS="chat,deaf",
                CHAT_TOTAL_TIMEOUT="0.6",
                DEAF_BASE_URL=url,
                DEAF_CONNECT_TIMEOUT="0.4",
            )
        )
        upstream.script(faults.slow_down(Answer(text="word " * 200, pieces=200), delay=0.05))
        started = time.monotonic()
        endless = send_request(server, client, make_body(client, model="chat/m", stream=True))
        connected_at = time.monotonic()
        connect_failure = send_request(server, client, make_body(client, model="deaf/m"))

    assert 0.6 <= connected_at - started < 3
    assert endless.ending == "failed"
    assert "took too long" in endless.text
    assert upstream.requests[0].closed_by_client.wait(2)
    assert 0.4 <= time.monotonic() - connected_at < 3
    assert (connect_failure.status, connect_failure.error["code"]) == (504, "upstream_timeout")
