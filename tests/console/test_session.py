"""The operator's session."""

from __future__ import annotations

import httpx2
import pytest
from flask.testing import FlaskClient

from forwarder.console import blueprint, session
from tests.server.conftest import Serve


@pytest.fixture
def client(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setattr(blueprint, "FAILURE_SECONDS", 0)
    return serve(
        lambda _: httpx2.Response(200),
        FORWARDER_API_KEYS="client-key",
        FORWARDER_ADMIN_KEYS="adm-one",
        FORWARDER_PUBLIC_URL="https://llm.example",
    )


def sign_in(client: FlaskClient) -> str:
    """Sign in; return the cookie with its attributes."""
    return client.post("/console/sign-in", data={"key": "adm-one"}).headers["Set-Cookie"]


def get_status_with_cookie(client: FlaskClient, cookie: str) -> int:
    """Return the status of a page for a browser that has only this cookie."""
    client.set_cookie(session.COOKIE_NAME, cookie, path="/console")
    return client.get("/console/exchanges").status_code


def get_value(cookie: str) -> str:
    """Return the value of a ``Set-Cookie`` header."""
    return cookie.partition(";")[0].partition("=")[2]


def test_cookie_is_for_the_console_only_and_does_not_contain_the_key(client: FlaskClient) -> None:
    cookie = sign_in(client)

    assert "adm-one" not in cookie
    for attribute in ("HttpOnly", "SameSite=Strict", "Path=/console", "Secure"):
        assert attribute in cookie


def test_session_ends_after_its_time(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_status_with_cookie(client, get_value(sign_in(client))) == 200
    monkeypatch.setattr(session, "SESSION_SECONDS", 0)

    assert get_status_with_cookie(client, get_value(sign_in(client))) == 302


def test_session_ends_when_its_key_is_removed(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blueprint, "FAILURE_SECONDS", 0)

    def serve_with(keys: str) -> FlaskClient:
        secret = "a-secret-of-enough-characters"
        return serve(
            lambda _: httpx2.Response(200),
            FORWARDER_ADMIN_KEYS=keys,
            FORWARDER_SECRET_KEY=secret,
        )

    cookie = get_value(sign_in(serve_with("adm-one")))

    assert get_status_with_cookie(serve_with("adm-zero,adm-one"), cookie) == 200
    assert get_status_with_cookie(serve_with("adm-two"), cookie) == 302


def test_forged_cookies_are_no_session(client: FlaskClient) -> None:
    for value in ("", "fwd2.abc", "e30", "x" * 1000):
        assert get_status_with_cookie(client, value) == 302


def test_programs_use_an_administrator_key_instead(client: FlaskClient) -> None:
    for key, status in (("adm-one", 200), ("client-key", 403), ("other", 302)):
        got = client.get("/console/exchanges", headers={"Authorization": f"Bearer {key}"})
        assert got.status_code == status, key


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
    ],
)
def test_other_pages_cannot_change_anything(client: FlaskClient, headers: dict[str, str]) -> None:
    sign_in(client)

    assert client.post("/console/sign-out", headers=headers).status_code == 403
    assert (
        client.post("/console/sign-in", data={"key": "adm-one"}, headers=headers).status_code == 403
    )
