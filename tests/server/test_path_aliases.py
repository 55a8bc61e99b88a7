"""Base URLs in all configured forms."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from forwarder.server.path_aliases import normalize_path

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("/v1//models//", "/v1/models"),
        ("//v1/models", "/v1/models"),
        ("/v1/v1/models", "/v1/models"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/v1//v1/models", "/v1/models"),
        ("/openai/v1/models", "/v1/models"),
        ("/openai/v1/v1/models", "/v1/models"),
        ("/openai/v1/openai/v1/models", "/v1/models"),
        ("/v1", "/v1"),
        ("/models/", "/models"),
        ("/api/chat/", "/api/chat"),
        ("/v1/models/openai/v1/m", "/v1/models/openai/v1/m"),
        ("/v1/models/v1/m", "/v1/models/v1/m"),
        ("/v10/models", "/v10/models"),
        ("/openai/models", "/openai/models"),
        ("/forwarder/translate", "/forwarder/translate"),
    ],
)
def test_a_path_has_one_normal_form(path: str, normal: str) -> None:
    assert normalize_path(path) == normal
    assert normalize_path(normal) == normal


@pytest.mark.parametrize(
    "base", ["", "/", "/v1", "/v1/", "//v1", "/v1/v1", "/openai/v1", "/openai/v1/v1/"]
)
@pytest.mark.parametrize("end", ["", "/", "//"])
def test_every_base_url_leads_to_the_same_route(base: str, end: str, demo: FlaskClient) -> None:
    def ask(method: str, route: str, **given: Any) -> tuple[int, str]:
        path = {"PATH_INFO": f"{base}{route}{end}"}  # in a URL, "//chat" would be a host
        got = demo.open("/", method=method, environ_overrides=path, **given)
        return got.status_code, got.get_json().get("object")

    assert ask("POST", "/chat/completions", json=CHAT) == (200, "chat.completion")
    assert ask("POST", "/responses", json={"model": "m", "input": "Hello"}) == (200, "response")
    assert ask("GET", "/models") == (200, "list")


def test_other_paths_are_still_not_found(demo: FlaskClient) -> None:
    for path in ("/v2/models", "/v1/v2/models", "/openai/models", "/v1/nothing/"):
        assert demo.get(path).status_code == 404
