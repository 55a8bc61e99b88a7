"""The response headers that Codex reads."""

from __future__ import annotations

import json

import pytest

from forwarder.codex_headers import describe_answer, describe_connection
from forwarder.config import Settings
from forwarder.routing import Route, Router

URL = "http://127.0.0.1:9/v1"
ETAG = 'W/"e"'


def router(**variables: str) -> Router:
    """A router over a Chat and a Responses upstream."""
    both = {"CHAT_BASE_URL": URL, "RESPONSES_BASE_URL": URL}
    return Router(Settings.from_env({**both, **variables}))


def route(model: str) -> Route:
    return router().resolve(model, "responses")


def test_over_chat_all_reasoning_is_in_the_usage() -> None:
    assert describe_answer({"retry-after": "1"}, "chat/m", route("chat/m"), ETAG) == {
        "retry-after": "1",
        "openai-model": "chat/m",
        "x-models-etag": ETAG,
        "x-reasoning-included": "true",
    }


def test_a_responses_upstream_says_itself_what_its_usage_counts() -> None:
    native = route("responses/m")
    assert "x-reasoning-included" not in describe_answer({}, "responses/m", native, ETAG)
    told = describe_answer({"x-reasoning-included": "true"}, "responses/m", native, ETAG)
    assert told["x-reasoning-included"] == "true"


@pytest.mark.parametrize(("reported", "told"), [("m", "responses/m"), ("safer", "safer")])
def test_another_model_is_named_only_when_the_upstream_took_one(reported: str, told: str) -> None:
    got = describe_answer({"openai-model": reported}, "responses/m", route("responses/m"), ETAG)
    assert got["openai-model"] == told


@pytest.mark.parametrize("model", ["m\r\nx-evil: 1", "模型"])
def test_a_name_that_no_header_can_hold_is_left_out(model: str) -> None:
    assert "openai-model" not in describe_answer({}, model, route("chat/m"), ETAG)


@pytest.mark.parametrize(
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
def test_the_handshake_speaks_of_the_session_s_model(
    metadata: object, variables: dict[str, str], included: bool
) -> None:
    header = {"X-Codex-Turn-Metadata": json.dumps(metadata)} if metadata is not None else {}
    expected = {"x-models-etag": ETAG} | ({"x-reasoning-included": "true"} if included else {})
    assert describe_connection(header.get, router(**variables), ETAG) == expected


@pytest.mark.parametrize("metadata", ["{", "[" * 5000])
def test_metadata_that_is_no_json_is_passed_over(metadata: str) -> None:
    header = {"X-Codex-Turn-Metadata": metadata}
    assert describe_connection(header.get, router(), ETAG)["x-reasoning-included"] == "true"
