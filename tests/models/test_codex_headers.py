"""The response headers that Codex reads."""

from __future__ import annotations

import json

from forwarder.config.settings import Settings
from forwarder.context.request_context import Route
from forwarder.models.codex_headers import (
    make_handshake_headers,
    make_response_headers,
    make_turn_events,
)
from forwarder.models.router import Router
from tests.helpers.check_cases import check_each

URL = "http://127.0.0.1:9/v1"
ETAG = 'W/"e"'


def make_router(**variables: str) -> Router:
    """A router over a Chat and a Responses upstream."""
    base_urls = {"CHAT_BASE_URL": URL, "RESPONSES_BASE_URL": URL}
    return Router(Settings.from_env({**base_urls, **variables}))


def find_route(model: str) -> Route:
    return make_router().resolve(model, "responses")


def test_chat_upstream_includes_reasoning_in_the_usage() -> None:
    assert make_response_headers({"retry-after": "1"}, "chat/m", find_route("chat/m"), ETAG) == {
        "retry-after": "1",
        "openai-model": "chat/m",
        "x-models-etag": ETAG,
        "x-reasoning-included": "true",
    }


def test_reasoning_header_of_a_responses_upstream_is_passed_on() -> None:
    route = find_route("responses/m")
    assert "x-reasoning-included" not in make_response_headers({}, "responses/m", route, ETAG)
    headers = make_response_headers({"x-reasoning-included": "true"}, "responses/m", route, ETAG)
    assert headers["x-reasoning-included"] == "true"


@check_each(
    ("model", "reported", "expected"),
    [
        ("responses/m", "m", "responses/m"),
        ("responses/m", "M", "responses/m"),
        ("responses/m", "safer", "safer"),
        ("chat/m", "m", "chat/m"),
        ("chat/m", "m-2026-01-01", "chat/m"),
    ],
)
def test_model_header_names_a_model_substituted_by_a_responses_upstream(
    model: str, reported: str, expected: str
) -> None:
    headers = make_response_headers({"openai-model": reported}, model, find_route(model), ETAG)
    assert headers["openai-model"] == expected


@check_each("model", ["m\r\nx-evil: 1", "模型"])
def test_model_name_with_invalid_header_characters_is_omitted(model: str) -> None:
    assert "openai-model" not in make_response_headers({}, model, find_route("chat/m"), ETAG)


@check_each(
    ("metadata", "variables", "included"),
    [
        ({"model": "chat/m"}, {}, True),
        ({"model": "responses/m"}, {}, False),
        ({"model": "chat/"}, {}, True),
        ({}, {}, True),
        (None, {}, True),
        ("no object", {}, True),
        ({"model": 5}, {}, True),
        (None, {"FORWARDER_UPSTREAMS": "responses"}, False),
        (None, {"FORWARDER_DEFAULT_MODEL": "responses/m"}, False),
    ],
)
def test_handshake_headers_use_the_session_model(
    metadata: object, variables: dict[str, str], included: bool
) -> None:
    header = {"X-Codex-Turn-Metadata": json.dumps(metadata)} if metadata is not None else {}
    expected = {"x-models-etag": ETAG} | ({"x-reasoning-included": "true"} if included else {})
    headers = make_handshake_headers(
        header.get, make_router(**variables), lambda u: False, ETAG, None
    )
    assert headers == expected


@check_each("metadata", ["{", "[" * 5000])
def test_invalid_turn_metadata_is_ignored(metadata: str) -> None:
    header = {"X-Codex-Turn-Metadata": metadata}
    headers = make_handshake_headers(header.get, make_router(), lambda u: False, ETAG, None)
    assert headers["x-reasoning-included"] == "true"


def test_handshake_repeats_the_latest_headers_of_a_responses_upstream() -> None:
    header = {"X-Codex-Turn-Metadata": '{"model": "responses/m"}'}
    headers = make_handshake_headers(
        header.get, make_router(), lambda u: u.name == "responses", ETAG, None
    )
    assert headers["x-reasoning-included"] == "true"


def test_handshake_depends_on_the_models_of_the_client_key() -> None:
    router = make_router(FORWARDER_DEFAULT_MODEL="responses/m")
    router.check_codex_helper = lambda upstream, name, key: (upstream, key) == ("chat", "k")
    header = {"X-Codex-Turn-Metadata": '{"model": "gpt-5.6-luna"}'}

    for key, included in (("k", True), ("x", False)):
        headers = make_handshake_headers(header.get, router, lambda u: False, ETAG, key)
        assert ("x-reasoning-included" in headers) == included


def make_window(
    used: float, minutes: int | None = None, reset: int | None = None
) -> dict[str, object]:
    return {"used_percent": used, "window_minutes": minutes, "reset_at": reset}


def test_turn_events_contain_the_codex_headers() -> None:
    headers = {
        "openai-model": "m",
        "x-models-etag": ETAG,
        "x-codex-turn-state": "state",
        "x-codex-primary-used-percent": "12.5",
        "x-codex-primary-window-minutes": "300",
        "x-codex-primary-reset-at": "1704069000",
        "x-codex-secondary-used-percent": "80",
        "x-codex-credits-has-credits": "True",
        "x-codex-credits-unlimited": "0",
        "x-codex-credits-balance": "9.50",
        "x-codex-other-limit-name": "small",
        "x-codex-other-primary-used-percent": "1",
    }
    credits_ = {"has_credits": True, "unlimited": False, "balance": "9.50"}

    metadata, state, codex_limits, other_limits = make_turn_events(headers)

    assert metadata == {"type": "codex.response.metadata", "headers": {"x-models-etag": ETAG}}
    assert state == {"type": "response.metadata", "headers": {"x-codex-turn-state": "state"}}
    assert codex_limits == {
        "type": "codex.rate_limits",
        "metered_limit_name": "codex",
        "limit_name": None,
        "rate_limits": {
            "primary": make_window(12.5, 300, 1704069000),
            "secondary": make_window(80),
        },
        "credits": credits_,
    }
    assert (other_limits["metered_limit_name"], other_limits["limit_name"]) == (
        "codex_other",
        "small",
    )
    assert other_limits["rate_limits"] == {"primary": make_window(1), "secondary": None}


def test_turn_without_codex_headers_has_no_events() -> None:
    assert make_turn_events({"retry-after": "1", "x-codex-secondary-used-percent": "1"}) == []


@check_each("text", ["", "much", "inf", "nan", "9" * 400, "1e99"])
def test_codex_limit_without_a_valid_number_is_omitted(text: str) -> None:
    [event] = make_turn_events(
        {"x-codex-primary-used-percent": text, "x-codex-credits-has-credits": text}
    )
    assert event["rate_limits"] == {"primary": None, "secondary": None}
    assert event["credits"] is None
