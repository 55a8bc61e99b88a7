"""Secrets in upstream settings, and values that are not secrets."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.config.settings import Settings, UpstreamSettings, make_upstream_settings
from forwarder.context.secrets import list_secrets, redact_headers, redact_secrets

KEY = "sk-secret"


def settings(**environment: str) -> UpstreamSettings:
    [upstream] = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1", **environment}).upstreams
    return upstream


def said(text: str, **environment: str) -> Any:
    return redact_secrets({"message": text}, settings(**environment))["message"]


def test_api_key_is_redacted_everywhere() -> None:
    error = {"a": [f"x{KEY}y"], KEY: {"b": KEY}, "c": 1}

    assert redact_secrets(error, settings(CHAT_API_KEY=KEY)) == {
        "a": ["x***y"],
        "***": {"b": "***"},
        "c": 1,
    }


@pytest.mark.parametrize("key", ["", "none", "sk-1234"])
def test_short_key_is_not_a_secret(key: str) -> None:
    error = {"message": f"bad {key} and none"}

    assert redact_secrets(error, settings(CHAT_API_KEY=key)) is error


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ("X-Gateway-Key: gate-key-1", "gate-key-1"),
        ("Authorization: Bearer tok-en-22", "tok-en-22"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("Proxy-Authorization: x; Cookie: session=99", "session=99"),
        ("X-Account: a1b2c3d4e5f6a7b8c9d0", "a1b2c3d4e5f6a7b8c9d0"),
        ("X-Tenant: 5F0C12AB-0000-4000-8000-00000000beef", "5F0C12AB-0000-4000-8000-00000000beef"),
        ('{"X-Api-Key": "quo\\"te\\\\d-1"}', 'quo"te\\d-1'),
    ],
)
def test_secret_headers_are_redacted(headers: str, secret: str) -> None:
    assert said(f"You sent '{secret}'.", CHAT_HEADERS=headers) == "You sent '***'."


@pytest.mark.parametrize(
    ("query", "quoted"),
    [
        ("key=AIzaSy-short", "AIzaSy-short"),
        ("sig=a%2Fb%3D%2Bcdefg", "a/b=+cdefg"),
        ("sig=a%2Fb%3D%2Bcdefg", "a%2Fb%3D%2Bcdefg"),
        ("code=function-code", "function-code"),
    ],
)
def test_secret_query_values_are_redacted(query: str, quoted: str) -> None:
    assert said(f"at /v1?x={quoted}&y", CHAT_QUERY=query) == "at /v1?x=***&y"


@pytest.mark.parametrize(
    "environment",
    [
        {"CHAT_QUERY": "api-version=2024-12-01-preview"},
        {"CHAT_HEADERS": "Accept-Language: de-CH,en-GB"},
        {"CHAT_HEADERS": "anthropic-beta: prompt-caching-2024-07-31"},
        {"CHAT_HEADERS": '{"HTTP-Referer": "https://forwarder.example.com"}'},
        {"CHAT_HEADERS": "X-Title: My Application"},
        {"CHAT_HEADERS": "X-Cache-Key: none"},
        {"CHAT_HEADERS": "Authorization: Bearer"},
        {"CHAT_HEADERS": "X-Region: internationalization-of-things"},
    ],
)
def test_common_values_are_not_redacted(environment: dict[str, str]) -> None:
    assert list_secrets(settings(**environment)) == []


def test_nested_secrets_are_redacted_whole() -> None:
    given = {"CHAT_API_KEY": "longsecret", "CHAT_HEADERS": "X-Auth: longsecret-and-more"}

    assert said("is longsecret-and-more or longsecret", **given) == "is *** or ***"


def test_headers_have_no_secret_in_value_or_name() -> None:
    settings = make_upstream_settings(
        "up", api_key="sk-Secret-key", headers={"X-Token": "other-secret"}
    )
    headers = {
        "x-ratelimit-sk-secret-key": "1",
        "x-ratelimit-a": "key=sk-Secret-key; other-secret",
        "retry-after": "3",
    }

    assert redact_headers(headers, settings) == {
        "x-ratelimit-a": "key=***; ***",
        "retry-after": "3",
    }
