"""The pages of client keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.server.extension import get_extension


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    return make_client(f"sqlite:///{tmp_path}/state.db")


def make_client(database: str, **environment: str) -> FlaskClient:
    settings = {"FORWARDER_DATABASE_URL": database, **environment}
    return create_app(Settings.from_env(settings)).test_client()


def read_secret(page: str) -> str:
    match = re.search(r'id="secret"[^>]*>([^<]+)<', page)
    assert match is not None, page
    return match[1]


def create(client: FlaskClient, **form: str) -> str:
    page = client.post("/console/keys", data={"name": "alice", **form})
    assert page.status_code == 200, page.text
    return read_secret(page.text)


def find_id(client: FlaskClient) -> str:
    return get_extension(client.application).services.client_keys.get_key("alice").id


def send_chat(client: FlaskClient, key: str) -> int:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": f"Bearer {key}"}
    return client.post("/v1/chat/completions", json=body, headers=headers).status_code


def read_target(client: FlaskClient, redirection: TestResponse) -> str:
    """Return the page to which an answer leads."""
    return client.get(redirection.headers["Location"]).text


def test_page_announces_that_the_first_key_makes_keys_required(client: FlaskClient) -> None:
    assert "every client needs one" in client.get("/console/keys").text
    key = create(client, models="demo", budget="5 usd/month")
    page = client.get("/console/keys").text
    assert "Every client needs a key" in page
    assert "5 usd/month" in page
    assert key not in page
    assert (send_chat(client, key), send_chat(client, "other")) == (200, 401)


def test_usage_and_last_use_are_shown(client: FlaskClient) -> None:
    key = create(client)
    assert ">never</td>" in client.get("/console/keys").text
    send_chat(client, key)
    page = client.get("/console/keys").text
    assert "1 request, 13 tokens" in page
    assert ">never</td>" not in page
    assert "This month: 1 request," in client.get(f"/console/keys/{find_id(client)}").text


def test_errors_are_shown_at_their_field_with_the_values(client: FlaskClient) -> None:
    form = {"name": "bob", "budget": "<b>much</b>", "requests_per_minute": "7"}
    page = client.post("/console/keys", data=form)
    assert page.status_code == 400
    assert 'value="&lt;b&gt;much&lt;/b&gt;"' in page.text
    assert re.search(r'id="budget"[^>]*aria-invalid="true"', page.text)
    assert 'value="7"' in page.text
    page = client.post("/console/keys", data={"name": "bob", "tokens_per_minute": "x"})
    assert re.search(r'id="tokens_per_minute"[^>]*aria-invalid="true"', page.text)
    create(client)
    page = client.post("/console/keys", data={"name": "alice"})
    assert "There is a client key &#39;alice&#39; already" in page.text


def test_limits_are_changed(client: FlaskClient) -> None:
    create(client, requests_per_minute="5", expires="30d", reasoning="none")
    path = f"/console/keys/{find_id(client)}"
    form = client.get(path).text
    expires = re.search(r'name="expires"[^>]*value="([^"]+)"', form)
    assert expires is not None
    keys = get_extension(client.application).services.client_keys
    before = keys.get_key("alice").expires
    changed = client.post(path, data={"tokens_per_minute": "1,000", "expires": expires[1]})
    assert changed.status_code == 303
    assert "The limits of <code>alice</code> are saved." in read_target(client, changed)
    key = keys.get_key("alice")
    assert (key.grants.requests_per_minute, key.grants.tokens_per_minute) == (None, 1000)
    assert key.expires == before
    assert client.post(path, data={"models": "m" * 301}).status_code == 400
    client.post(path, data={})
    assert keys.get_key("alice").expires is None


def test_rotation_shows_the_new_key_once(client: FlaskClient) -> None:
    first = create(client)
    path = f"/console/keys/{find_id(client)}/rotate"
    assert "after a day" in client.get(path).text
    page = client.post(path, data={"grace": "24h"})
    second = read_secret(page.text)
    assert re.search(r"stays valid until \d{4}-\d\d-\d\d \d\d:\d\d UTC\.", page.text)
    assert [send_chat(client, key) for key in (first, second)] == [200, 200]
    third = read_secret(client.post(path).text)
    assert [send_chat(client, key) for key in (first, third)] == [401, 200]


def test_revocation_is_confirmed(client: FlaskClient) -> None:
    key = create(client)
    path = f"/console/keys/{find_id(client)}/revoke"
    assert "Revoke this key?" in client.get(path).text
    assert send_chat(client, key) == 200
    revoked = client.post(path)
    assert revoked.status_code == 303
    assert "The key of <code>alice</code> is revoked." in read_target(client, revoked)
    assert "is revoked." not in client.get("/console/keys?revoked=nobody").text
    assert send_chat(client, key) == 401
    assert "revoked" in client.get("/console/keys").text
    assert "has been revoked" in client.get(f"/console/keys/{find_id(client)}").text
    assert client.post(path).status_code == 400


def test_pages_need_an_operator_and_forms_the_own_origin(tmp_path: Path) -> None:
    client = make_client(f"sqlite:///{tmp_path}/state.db", FORWARDER_ADMIN_KEYS="sk-admin")
    assert client.get("/console/keys").status_code == 302
    assert client.post("/console/keys", data={"name": "alice"}).status_code == 401
    headers = {"Authorization": "Bearer sk-admin", "Sec-Fetch-Site": "same-site"}
    assert client.post("/console/keys", data={"name": "alice"}, headers=headers).status_code == 403
    del headers["Sec-Fetch-Site"]
    assert client.get("/console/keys/nobody", headers=headers).status_code == 404


def test_page_requires_a_database() -> None:
    client = make_client("none")
    page = client.get("/console/keys")
    assert (page.status_code, "no database" in page.text) == (200, True)
    assert client.post("/console/keys", data={"name": "alice"}).status_code == 400


def test_optional_keys_are_explained(tmp_path: Path) -> None:
    client = make_client(f"sqlite:///{tmp_path}/state.db", FORWARDER_CLIENT_KEYS="optional")
    assert "is optional" in client.get("/console/keys").text
