"""WebSocket handshakes; tests/live covers connections."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve

HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@check_each("path", ["/v1/responses", "/responses"])
def test_plain_get_is_a_426(path: str, demo: FlaskClient) -> None:
    assert demo.get(path).status_code == 426


def test_handshake_without_a_socket_is_a_426(demo: FlaskClient) -> None:
    got = demo.get("/v1/responses", headers=HANDSHAKE)

    assert (got.status_code, got.get_json()["error"]["code"]) == (426, "upgrade_required")


def test_handshake_requires_a_key(serve: Serve) -> None:
    client = serve(lambda _: None, FORWARDER_API_KEYS="k")

    assert client.get("/v1/responses", headers=HANDSHAKE).status_code == 401


@check_each(
    ("origin", "status"),
    [
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://localhost", 400),
        ("https://f.example", 400),
        ("https://f.example:8443", 403),
    ],
)
def test_handshake_of_other_origins_is_refused(origin: str, status: int, serve: Serve) -> None:
    """A page of the own origin passes the origin check; the handshake fails later."""
    client = serve(lambda _: None, FORWARDER_PUBLIC_URL="https://f.example")
    headers = {**HANDSHAKE, "Origin": origin, "Sec-WebSocket-Key": "short"}

    got = client.get(
        "/v1/responses", headers=headers, environ_overrides={"werkzeug.socket": object()}
    )

    assert got.status_code == status


@check_each(
    "wrong",
    [
        {"Sec-WebSocket-Version": "8"},
        {"Sec-WebSocket-Key": "short"},
        {"Sec-WebSocket-Key": "not base64 at all !!"},
        {"Sec-WebSocket-Key": ""},
    ],
)
def test_invalid_handshake_is_refused(wrong: dict[str, str], demo: FlaskClient) -> None:
    got = demo.get(
        "/v1/responses",
        headers={**HANDSHAKE, **wrong},
        environ_overrides={"werkzeug.socket": object()},
    )

    assert (got.status_code, got.get_json()["error"]["code"]) == (400, "invalid_handshake")
