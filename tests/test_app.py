"""The wiring: routes, errors, and the log of the start."""

from __future__ import annotations

import json

import pytest
from flask import Flask

from forwarder.app import create_app
from forwarder.config.settings import ConfigError, Settings
from forwarder.core.errors import UpstreamRefused
from tests.helpers.check_cases import check_each


def make_app(**environment: str) -> Flask:
    return create_app(Settings.from_env(environment))


def test_every_api_route_is_there() -> None:
    paths = {rule.rule for rule in make_app().url_map.iter_rules()}

    api = {
        "/chat/completions",
        "/responses",
        "/responses/compact",
        "/models",
        "/models/<path:model>",
        "/embeddings",
    }
    api |= {"/files", "/files/<file>", "/files/<file>/content"}
    api |= {"/containers/<container>/files/<file>/content"}
    api |= {"/images/generations", "/images/edits", "/alpha/search"}
    api |= {"/messages", "/messages/count_tokens"}
    api |= {"/responses/<name>", "/responses/<name>/cancel", "/responses/<name>/input_items"}
    api |= {"/responses/input_tokens", "/chat/completions/<name>"}
    api |= {"/chat/completions/<name>/messages", "/conversations", "/conversations/<name>"}
    api |= {"/conversations/<name>/items", "/conversations/<name>/items/<item_id>"}
    store = "/vector_stores/<store_id>"
    batch = f"{store}/file_batches/<batch_id>"
    api |= {"/vector_stores", store, f"{store}/search", f"{store}/file_batches", batch}
    api |= {f"{batch}/cancel", f"{batch}/files", f"{store}/files", f"{store}/files/<file_id>"}
    api |= {f"{store}/files/<file_id>/content"}
    ollama = {f"/api/{name}" for name in ("create", "show", "tags", "ps", "copy", "delete")}
    ollama |= {"/", "/api/version", "/api/pull", "/api/push", "/api/blobs/<digest>"}
    pages = {path for path in paths if path.startswith(("/console", "/landing"))}
    assert paths - pages == {f"/v1{path}" for path in api} | {
        "/health",
        "/ready",
        "/metrics",
        "/docs",
        "/docs/<path:path>",
        "/docs/api",
        "/docs/api/<name>",
        "/openapi.json",
        "/forwarder/translate",
        "/forwarder/keys",
        "/forwarder/keys/<name>",
        "/forwarder/keys/<name>/rotate",
        "/forwarder/usage",
        "/v1/organization/usage/completions",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
        "/forwarder/exchanges",
        "/forwarder/exchanges/<path:name>",
        *ollama,
    }


@check_each(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/responses", 426, "upgrade_required"),
        ("PUT", "/v1/responses", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_other_requests_are_refused_in_openai_s_shape(
    method: str, path: str, status: int, code: str
) -> None:
    response = make_app().test_client().open(path, method=method)

    assert response.status_code == status
    error = response.get_json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, None)


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/v1/models", "models", 200),
        ("GET", "/v1/models/none", "model", 404),
        ("GET", "/v1/responses", "upgrade", 426),
        ("GET", "/v1/nothing", "GET /v1/nothing", 404),
        ("DELETE", "/v1/models", "DELETE /v1/models", 405),
        ("GET", f"/{'x' * 999}", f"GET /{'x' * 95}", 404),
    ],
)
def test_every_answer_has_an_id_and_every_request_is_logged(
    method: str, path: str, route: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_app().test_client()
    response = client.open(path, method=method, headers={"X-Request-Id": "mine"})

    assert (response.status_code, response.headers["X-Request-Id"]) == (status, "mine")
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (line["id"], line["route"], line["status"]) == ("mine", route, status)
    assert line["level"] == "info"


def test_forwarder_error_has_its_status_and_headers() -> None:
    app = make_app()

    @app.get("/fails")
    def raise_refusal() -> str:
        raise UpstreamRefused(429, {"message": "full", "extra": 1}, {"retry-after": "3"})

    response = app.test_client().get("/fails")

    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert response.get_json()["error"]["extra"] == 1


def test_unexpected_error_is_a_500_with_details_only_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = make_app()

    @app.get("/breaks")
    def raise_key_error() -> str:
        raise KeyError("inner matter")

    response = app.test_client().get("/breaks")

    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "internal_error")
    assert "inner matter" not in response.text
    *_, trace_record, line = map(json.loads, capsys.readouterr().err.splitlines())
    assert "inner matter" in trace_record["trace"]
    assert (line["id"], line["error"]) == (response.headers["X-Request-Id"], "internal_error")


def test_demo_warns_at_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    make_app()

    lines = map(json.loads, capsys.readouterr().err.splitlines())
    [demo_record] = [line for line in lines if "demo" in line["message"]]
    assert demo_record["level"] == "warning"


@pytest.mark.parametrize(
    ("secrets", "warns"),
    [("", False), ("short", True), (f"{'x' * 24},short", True), ("x" * 24, False)],
)
def test_short_secrets_are_warned_of_at_the_start(
    secrets: str, warns: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    make_app(FORWARDER_SECRET_KEY=secrets)

    log = capsys.readouterr().err
    assert ("fewer than 24 characters" in log) is warns
    assert "short" not in log


def test_without_settings_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDER_DOTENV", "")
    monkeypatch.setenv("FORWARDER_STRICT", "maybe")

    with pytest.raises(ConfigError, match="FORWARDER_STRICT"):
        create_app()
