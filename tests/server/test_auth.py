"""Authentication of clients and administrators."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from forwarder.client_keys.registry import ClientKeyRegistry
from forwarder.config.settings import Settings
from forwarder.core.errors import ClientError, Forbidden, Unauthorized
from forwarder.server import auth
from tests.helpers.check_cases import check_each

KEYS = ("key-one", "key-two")
LOCAL = {"REMOTE_ADDR": "127.0.0.1"}


@pytest.fixture
def app() -> Flask:
    return Flask("keys")


def use_settings(app: Flask, settings: Settings) -> None:
    keys = ClientKeyRegistry(settings)
    services = SimpleNamespace(settings=settings, client_keys=keys)
    app.extensions["forwarder"] = SimpleNamespace(services=services)


def get_client_key(app: Flask, keys: tuple[str, ...], **headers: str) -> str | None:
    use_settings(app, Settings.from_env({"FORWARDER_API_KEYS": ",".join(keys)}))
    with app.test_request_context(headers={k.replace("_", "-"): v for k, v in headers.items()}):
        return auth.require_client_key()


@check_each(
    ("headers", "key"),
    [
        ({}, None),
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bearer  abc "}, "abc"),
        ({"Authorization": "Basic abc"}, None),
        ({"api_key": "abc"}, "abc"),
        ({"Authorization": "Basic abc", "api_key": "def"}, "def"),
        ({"X_Api_Key": "abc"}, "abc"),
        ({"Authorization": "Bearer abc", "X_Api_Key": "def"}, "abc"),
        ({"api_key": "", "X_Api_Key": "def"}, "def"),
    ],
)
def test_without_keys_any_key_is_accepted(
    headers: dict[str, str], key: str | None, app: Flask
) -> None:
    assert get_client_key(app, (), **headers) == key


@check_each("key", KEYS)
def test_each_configured_key_is_accepted(key: str, app: Flask) -> None:
    assert get_client_key(app, KEYS, Authorization=f"Bearer {key}") == key
    assert get_client_key(app, KEYS, X_Api_Key=key) == key


@check_each("headers", [{}, {"Authorization": "Bearer key-three"},
                                   {"api_key": "key-on"}, {"api_key": "schlüssel"}])  # fmt: skip
def test_other_keys_are_unauthorized(headers: dict[str, str], app: Flask) -> None:
    with pytest.raises(Unauthorized) as refused:
        get_client_key(app, KEYS, **headers)

    assert refused.value.status == 401
    assert not any(value in refused.value.message for value in headers.values())


def test_all_keys_are_compared(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    real = auth.hmac.compare_digest

    def compare_and_record(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return real(a, b)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare_and_record)
    get_client_key(app, KEYS, Authorization="Bearer key-one")

    assert compared == [b"key-one", b"key-two"]


def get_refusal(app: Flask, admin_keys: tuple[str, ...], key: str = "", **request: Any) -> Any:
    """Return the error of `require_administrator`, or None."""
    headers = {"Authorization": f"Bearer {key}", **request.pop("headers", {})}
    environment = {
        "FORWARDER_ADMIN_KEYS": ",".join(admin_keys),
        "FORWARDER_API_KEYS": "client",
        "FORWARDER_CORS_ORIGINS": "*",  # CORS origins are not administrators
    }
    settings = Settings.from_env(environment)
    use_settings(app, settings)
    with app.test_request_context(headers=headers, **request):
        try:
            auth.require_administrator(settings)
        except ClientError as error:
            return type(error)
    return None


@check_each(
    ("key", "error"),
    [("key-two", None), ("", Unauthorized), ("else", Unauthorized), ("client", Forbidden)],
)
def test_admin_keys_are_required_if_configured(
    key: str, error: type[ClientError] | None, app: Flask
) -> None:
    assert get_refusal(app, KEYS, key, environ_base=LOCAL) is error


@check_each(
    ("request_", "error"),
    [
        ({"environ_base": LOCAL}, None),
        ({"environ_base": {"REMOTE_ADDR": "::1"}, "base_url": "http://[::1]:8000"}, None),
        ({"environ_base": {"REMOTE_ADDR": "::ffff:127.0.0.1"}}, None),
        ({"environ_base": {"REMOTE_ADDR": "::ffff:10.0.0.7"}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"Origin": "http://localhost:3000"}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"Origin": "http://localhost"}}, None),
        ({"environ_base": LOCAL, "headers": {"Origin": "app://obsidian.md"}}, None),
        ({"environ_base": LOCAL, "headers": {"Sec-Fetch-Site": "cross-site"}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"Sec-Fetch-Site": "same-site"}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"Sec-Fetch-Site": "none"}}, None),
        ({"environ_base": LOCAL, "headers": {"X-Forwarded-Host": "localhost"}}, Forbidden),
        ({"environ_base": {"REMOTE_ADDR": "10.0.0.7"}}, Forbidden),
        ({"environ_base": {"REMOTE_ADDR": ""}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"X-Forwarded-For": "10.0.0.7"}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"Origin": "https://evil.example"}}, Forbidden),
        ({"environ_base": LOCAL, "headers": {"Origin": "null"}}, Forbidden),
        ({"environ_base": LOCAL, "base_url": "http://rebound.example"}, Forbidden),
    ],
)
def test_without_admin_keys_only_local_requests_administer(
    request_: dict[str, Any], error: type[ClientError] | None, app: Flask
) -> None:
    assert get_refusal(app, (), "client", **request_) is error
