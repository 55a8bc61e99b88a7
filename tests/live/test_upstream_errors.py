"""Misconfigured and unreachable upstreams in errors, in the log and at /ready."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_provider import ScriptedUpstream
from tests.helpers.certificates import Authority
from tests.helpers.loopback import Peer, find_unused_port, run_server
from tests.live.conftest import KEY, Serve
from tests.live.server import Server
from tests.live.talk import PAIRINGS, PATHS, Json, http, make_body, send_request
from tests.live.test_service import find_log_line, read_log
from tests.live.test_websocket import open_session

every_pairing = pytest.mark.parametrize(("client", "upstream_api"), PAIRINGS)
every_client = pytest.mark.parametrize("client", PATHS)
either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])

WRONG_KEY = "sk-wrong-and-secret"


@pytest.fixture(scope="module")
def keyed_upstream() -> Iterator[ScriptedUpstream]:
    """A provider with another key than the forwarder's."""
    with ScriptedUpstream(keys={KEY}) as scripted:
        yield scripted


@pytest.fixture(scope="module")
def wrong_key_forwarder(serve: Serve, keyed_upstream: ScriptedUpstream) -> Server:
    """A forwarder with upstream keys that are wrong, missing, or the client's."""
    return serve(
        {
            "FORWARDER_UPSTREAMS": "chat,responses,keyless,theirs",
            "FORWARDER_READY_TTL": "0",
            "CHAT_BASE_URL": keyed_upstream.url,
            "CHAT_API_KEY": WRONG_KEY,
            "RESPONSES_BASE_URL": keyed_upstream.url,
            "RESPONSES_API_KEY": WRONG_KEY,
            "KEYLESS_BASE_URL": keyed_upstream.url,
            "THEIRS_BASE_URL": keyed_upstream.url,
            "THEIRS_API_KEY": "passthrough",
        }
    )


@every_pairing
@either
def test_a_refused_key_is_a_403_that_names_the_setting(
    client: str, upstream_api: str, stream: bool, wrong_key_forwarder: Server
) -> None:
    response = send_request(
        wrong_key_forwarder, client, make_body(client, model=f"{upstream_api}/m", stream=stream)
    )

    assert (response.status, response.error["code"]) == (403, "upstream_authentication")
    assert response.headers["x-should-retry"] == "false"
    message = response.error["message"]
    assert f"({upstream_api.upper()}_API_KEY)" in message
    assert "It says: " in message
    assert WRONG_KEY not in response.text


@every_client
def test_a_missing_key_is_named(client: str, wrong_key_forwarder: Server) -> None:
    response = send_request(
        wrong_key_forwarder, client, make_body(client, model="keyless/m", stream=True)
    )

    assert response.status == 403
    assert "none is configured: KEYLESS_API_KEY is not set" in response.error["message"]


@every_client
def test_a_client_s_own_key_stays_a_401(client: str, wrong_key_forwarder: Server) -> None:
    body = make_body(client, model="theirs/m", stream=True)

    response = send_request(
        wrong_key_forwarder, client, body, Authorization="Bearer sk-of-the-client"
    )

    assert response.status == 401
    assert "x-should-retry" not in response.headers


@pytest.mark.parametrize("upstream_api", PATHS)
def test_over_a_websocket_a_refused_key_is_an_error_with_its_status(
    upstream_api: str, wrong_key_forwarder: Server
) -> None:
    with open_session(wrong_key_forwarder) as session:
        [event] = session.run_turn("hi", model=f"{upstream_api}/m")

    assert (event["type"], event["status"]) == ("error", 403)
    assert event["error"]["code"] == "upstream_authentication"
    assert event["headers"]["X-Should-Retry"] == "false"
    assert f"{upstream_api.upper()}_API_KEY" in event["error"]["message"]


@pytest.mark.parametrize("upstream_api", PATHS)
def test_background_work_with_a_refused_key_fails_with_the_reason(
    upstream_api: str, wrong_key_forwarder: Server
) -> None:
    body = make_body("responses", model=f"{upstream_api}/m", background=True)
    response = http.post(f"{wrong_key_forwarder.v1}/responses", json=body).json()

    def poll_response() -> Any:
        return http.get(f"{wrong_key_forwarder.v1}/responses/{response['id']}").json()

    deadline = time.monotonic() + 8
    while (result := poll_response())["status"] in ("queued", "in_progress"):
        assert time.monotonic() < deadline, result
        time.sleep(0.05)
    assert result["status"] == "failed"
    assert f"({upstream_api.upper()}_API_KEY)" in result["error"]["message"]


def test_refused_key_is_logged_once_and_shown_in_ready(wrong_key_forwarder: Server) -> None:
    for _ in range(3):
        send_request(wrong_key_forwarder, "chat", make_body("chat", model="chat/m"))

    log_lines = [
        line
        for line in read_log(wrong_key_forwarder)
        if line.get("event") == "upstream_key_refused"
    ]
    ready = http.get(f"{wrong_key_forwarder.url}/ready").json()["upstreams"]

    assert len([line for line in log_lines if line["upstream"] == "chat"]) == 1
    assert "(CHAT_API_KEY)" in log_lines[0]["detail"] or log_lines[0]["upstream"] != "chat"
    for name in ("chat", "responses", "keyless"):
        assert ready[name]["key_accepted"] is False
        assert f"{name.upper()}_API_KEY" in ready[name]["error"]
    assert WRONG_KEY not in json.dumps(ready)
    assert WRONG_KEY not in wrong_key_forwarder.log


# -- connections ----------------------------------------------------------------------------------

SECRET = "proxy-password"


@pytest.fixture(scope="module")
def cut_off_forwarder(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A forwarder with unreachable upstreams, each for a reason of its own."""
    authority = Authority(tmp_path_factory.mktemp("authority"))

    def answer_plain_http(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    def never_answer(peer: Peer) -> None:
        while peer.request():  # until the forwarder closes the connection
            pass

    with (
        run_server(lambda peer: None, authority.server("localhost")) as plain_server,
        run_server(answer_plain_http) as http_only,
        run_server(never_answer) as slow,
    ):
        urls = {
            "unknown": "https://no-such-host.invalid/v1",
            "refused": f"http://127.0.0.1:{find_unused_port()}/v1",
            "strange": f"https://localhost:{plain_server.port}/v1",
            "plain": f"https://localhost:{http_only.port}/v1",
            "slow": f"http://localhost:{slow.port}/v1",
            "proxied": "http://behind-a-proxy.test/v1",
        }
        environment = {f"{name.upper()}_BASE_URL": url for name, url in urls.items()}
        port = find_unused_port()
        yield serve(
            {
                "FORWARDER_UPSTREAMS": ",".join(urls),
                "SLOW_FIRST_BYTE_TIMEOUT": "0.3",
                "SLOW_WHOLE_TIMEOUT": "0.3",
                "http_proxy": f"http://user:{SECRET}@127.0.0.1:{port}",
                "no_proxy": "localhost,127.0.0.1",
                **environment,
            }
        )


REASONS = {
    "unknown": "the host name 'no-such-host.invalid' cannot be resolved",
    "refused": "refused the connection",
    "strange": "its certificate comes from an unknown authority",
    "plain": "it answers in plain HTTP",
    "slow": "did not answer within 0.3 seconds",
    "proxied": "the proxy http://127.0.0.1:",
}


@every_client
@either
@pytest.mark.parametrize("name", REASONS)
def test_connection_error_has_its_reason_in_the_message_and_the_log(
    client: str, stream: bool, name: str, cut_off_forwarder: Server
) -> None:
    response = send_request(
        cut_off_forwarder, client, make_body(client, model=f"{name}/m", stream=stream)
    )

    assert response.status == (504 if name == "slow" else 502)
    message = response.error["message"]
    assert REASONS[name] in message
    assert find_log_line(cut_off_forwarder, response)["detail"] == message
    assert SECRET not in response.text


def test_ready_shows_the_connection_error(cut_off_forwarder: Server) -> None:
    ready = http.get(f"{cut_off_forwarder.url}/ready")

    assert ready.status_code == 503
    states = ready.json()["upstreams"]
    for name, reason in REASONS.items():
        if name != "slow":  # its list has a time-out of its own
            assert reason in states[name]["error"]
    assert "did not answer within 5 seconds" in states["slow"]["error"]
    assert SECRET not in ready.text
    assert SECRET not in cut_off_forwarder.log


# -- a base URL without its /v1 -------------------------------------------------------------------


@every_client
@either
def test_base_url_without_its_version_is_reported(
    client: str, stream: bool, serve: Serve, upstream: ScriptedUpstream
) -> None:
    root = upstream.url.removesuffix("/v1")
    names = "chat,responses"
    environment: Json = {"FORWARDER_UPSTREAMS": names, "FORWARDER_READY_TTL": "0"}
    for name in ("CHAT", "RESPONSES"):
        environment |= {f"{name}_BASE_URL": root, f"{name}_API_KEY": KEY}
    server = serve(environment)

    ready = http.get(f"{server.url}/ready")
    response = send_request(server, client, make_body(client, model="chat/m", stream=stream))

    assert ready.status_code == 503
    assert "lacks '/v1'" in ready.json()["upstreams"]["chat"]["error"]
    assert (response.status, response.error["code"]) == (502, "upstream_base_url")
    assert response.headers["x-should-retry"] == "false"
    assert "(CHAT_BASE_URL)" in response.error["message"]
    assert f"on {root.removeprefix('http://')} " in response.error["message"]


# -- reused connections ---------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "status", "sent"), [("0", 502, 2), ("1", 200, 3)])
def test_a_post_on_a_connection_that_closes_is_sent_twice_only_with_retries(
    retries: str, status: int, sent: int, serve: Serve
) -> None:
    answer = json.dumps(
        {"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    ).encode()

    def script(peer: Peer) -> None:
        """Answer once on the first connection, and hang up under the second request."""
        peer.request()
        peer.answer(answer, b"Content-Type: application/json")
        while peer.request() and peer.server.connections > 1:
            peer.answer(answer, b"Content-Type: application/json")

    with run_server(script) as peer:
        server = serve(
            {
                "FORWARDER_UPSTREAMS": "up",
                "UP_BASE_URL": f"{peer.url}/v1",
                "UP_MAX_RETRIES": retries,
            }
        )
        first = send_request(server, "chat", make_body("chat"))
        second = send_request(server, "chat", make_body("chat"))

        assert (first.status, second.status) == (200, status)
        assert len(peer.requests) == sent
