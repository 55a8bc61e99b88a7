"""Redaction of keys and configured fields."""

from __future__ import annotations

import json
import sys
from typing import Any

import orjson

from forwarder.config.settings import (
    SETTINGS,
    UPSTREAM_SETTINGS,
    Settings,
    UpstreamSettings,
    make_upstream_settings,
)
from forwarder.context.redaction import (
    Redactor,
    collect_client_key,
    collect_settings_secrets,
    list_secrets,
    redact_headers,
    redact_secrets,
)
from tests.helpers.check_cases import check_each

SECRET = "s3cret/value+1"


def redact_value(value: Any, *fields: str) -> Any:
    return Redactor(fields).redact_value(value)


@check_each(
    "name",
    ["remote_api_key", "api_key", "apiKey", "Authorization", "client_secret", "password", "cookie",
     "access_token", "X-Api-Key"],
)  # fmt: skip
def test_key_fields_are_always_redacted(name: str) -> None:
    assert redact_value({"tools": [{name: SECRET}]}) == {"tools": [{name: "***"}]}


@check_each(
    "name", ["max_tokens", "prompt_cache_key", "token", "content", "keys", "key_points", "author"]
)
def test_other_fields_are_not_redacted(name: str) -> None:
    assert redact_value({name: SECRET}) == {name: SECRET}


def test_long_names_of_fields_are_not_kept() -> None:
    name = "n" * 1000 + "_password"
    before = sys.getrefcount(name)

    assert list(redact_value({name: SECRET}).values()) == ["***"]
    assert sys.getrefcount(name) == before


def test_schema_of_a_key_field_is_kept() -> None:
    schema = {"properties": {"password": {"type": "string"}}}

    assert redact_value(schema) == schema


def test_headers_in_a_body_are_redacted_as_headers() -> None:
    body = {"headers": {"X-Auth": "x", "X-Title": "t"}, "remote_query": {"sig": "y", "v": 1}}

    assert redact_value(body) == {
        "headers": {"X-Auth": "***", "X-Title": "t"},
        "remote_query": {"sig": "***", "v": 1},
    }


def test_named_fields_are_redacted_at_any_depth_and_keep_their_shape() -> None:
    body = {"user": "u", "a": [{"User": {"type": "x", "n": 1, "on": True, "no": None, "l": ["y"]}}]}

    assert redact_value(body, "user") == {
        "user": "***",
        "a": [{"User": {"type": "x", "n": 0, "on": True, "no": None, "l": ["***"]}}],
    }


def test_path_fields_are_redacted_only_at_that_path() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}]}],
            "content": "c", "x": {"content": "d"}, "y": {"content": "e"}}  # fmt: skip

    assert redact_value(body, "messages.content", "x.*") == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "***"}]}],
        "content": "c",
        "x": {"content": "***"},
        "y": {"content": "e"},
    }


def test_headers_and_parameters_are_redacted_by_name() -> None:
    pairs = [("Authorization", "Bearer x"), ("api-key", "x"), ("Cookie", "a=b"), ("key", "x"),
             ("Accept", "*/*"), ("X-Name", "n")]  # fmt: skip

    redaction = Redactor(["x-name"])

    assert redaction.redact_pairs(pairs) == [
        ["Authorization", "***"], ["api-key", "***"], ["Cookie", "***"], ["key", "***"],
        ["Accept", "*/*"], ["X-Name", "***"],
    ]  # fmt: skip
    assert redaction.redaction_count == 5


def test_redacted_value_is_redacted_everywhere_in_every_encoding() -> None:
    redaction = Redactor(["user"])
    value = 'Jane "the" Döe/x'
    redaction.redact_value({"user": value})
    record = {"a": value, "b": json.dumps({"user": value}, ensure_ascii=False), "c": f"no {value}!"}

    redacted = redaction.redact_everywhere(json.dumps(record, ensure_ascii=False).encode())

    assert b"Jane" not in redacted
    assert json.loads(redacted)["c"] == "no ***!"


@check_each("word", ["text", "exchange", "response.completed", "x" * 4097])
def test_plain_words_are_not_searched_for(word: str) -> None:
    redaction = Redactor(["user"])

    assert redaction.redact_value({"user": word}) == {"user": "***"}
    redacted = f'{{"type":"{word}"}}'.encode()
    assert redaction.redact_everywhere(redacted) == redacted


def test_invalid_json_is_redacted_textually() -> None:
    redaction = Redactor(["a.user"])
    text = '{"api_key": "s3cret\\"value", "User":"Jane Doe", "remote_api_key" : "sk-cut-o'

    redacted = redaction.redact_text(text)

    assert redacted == '{"api_key": "***", "User":"***", "remote_api_key" : "***'
    assert redaction.redact_everywhere(b'"Jane Doe"') == b'"***"'


@check_each("value", ["12345678", "null,null", "[],[],[]", "nothing more"])
def test_redacted_record_stays_valid_json(value: str) -> None:
    redaction = Redactor(["user"])
    redaction.redact_value({"user": value})
    record = {"at": 1712345678, "of": [None, None], "no": [[], [], []], "a": "\nothing more"}

    redacted = redaction.redact_everywhere(orjson.dumps({**record, "b": f"no {value}!"}))

    assert json.loads(redacted) == {**record, "b": "no ***!"}


def test_number_of_searched_values_is_limited() -> None:
    redaction = Redactor([])
    long_header = " ".join(f"{number:020}abc" for number in range(1000))

    redaction.redact_value({"headers": {"X-Auth": long_header, "Cookie": long_header}})

    assert len(redaction.found_secrets) == 500


SECRET_SETTINGS = {
    "CHAT_BASE_URL": ("http://h/k/p4th5ecretp4th5ecret/v1", "p4th5ecretp4th5ecret"),
    "CHAT_API_KEY": ("sk-upstream-1,sk-upstream-2", "sk-upstream-1", "sk-upstream-2"),
    "CHAT_HEADERS": ("X-Auth: Bearer header-secret; X-Title: harmless", "header-secret"),
    "CHAT_QUERY": ("key=query-secret&version=2026-01-01", "query-secret"),
    "FORWARDER_API_KEYS": ("sk-client-1,short", "sk-client-1"),
    "FORWARDER_ADMIN_KEYS": ("sk-admin-1", "sk-admin-1"),
    "FORWARDER_KEY_REASONING": ("sk-client-1=think", "sk-client-1"),
    "FORWARDER_WEB_SEARCH_URL": ("http://h/5earch5earch5earch55", "5earch5earch5earch55"),
    "FORWARDER_WEB_SEARCH_KEY": ("sk-search", "sk-search"),
    "FORWARDER_SECRET_KEY": ("sealing it", "sealing it"),
    "FORWARDER_DATABASE_URL": (
        "postgresql://me:p%40ssword@h/d?sslpassword=certificate", "p%40ssword", "p@ssword", "certificate",
    ),
    "FORWARDER_METRICS_KEY": ("sk-metrics", "sk-metrics"),
    "FORWARDER_RATE_LIMIT_STORAGE": ("redis://:redis-password@h/0", "redis-password"),
}  # fmt: skip
"""Variable -> its value and the secrets in it."""


def test_secrets_of_all_settings_are_collected() -> None:
    settings = Settings.from_env({name: value for name, (value, *_) in SECRET_SETTINGS.items()})

    expected = {secret for _, *secrets in SECRET_SETTINGS.values() for secret in secrets}
    assert collect_settings_secrets(settings) == expected


def test_each_secret_setting_has_an_example_here() -> None:
    assert SECRET_SETTINGS.keys() == {
        prefix + row.suffix
        for prefix, table in (("FORWARDER_", SETTINGS), ("CHAT_", UPSTREAM_SETTINGS))
        for row in table
        if row.list_secrets is not None
    }


def test_client_key_is_a_secret_unless_too_short() -> None:
    assert collect_client_key("sk-client") == {"sk-client"}
    assert collect_client_key("none") == collect_client_key(None) == frozenset()


@check_each(
    ("url", "expected"),
    [
        ("https://mcp.example/sse", "https://mcp.example"),
        ("https://mcp.example/sse?v=2&token=hunter2hunter2", "https://mcp.example"),
        ("https://mcp.example/?k=abcdefghij0123456789", "https://mcp.example"),
        ("https://mcp.example/s/abcdefghij0123456789/mcp", "https://mcp.example"),
        ("https://me:hunter2hunter2@mcp.example:8443/", "https://mcp.example:8443"),
        ("mcp.example", "mcp.example"),
    ],
)
def test_tokens_in_mcp_server_urls_are_redacted(url: str, expected: str) -> None:
    redaction = Redactor(())
    tool = {"type": "mcp", "server_label": "x", "server_url": url}

    redacted_value = redaction.redact_value({"tools": [tool]})

    assert redacted_value["tools"][0] == {**tool, "server_url": expected}
    redacted = redaction.redact_everywhere(
        b'{"error":"no access with hunter2hunter2 or abcdefghij0123456789"}'
    )
    for secret in ("hunter2hunter2", "abcdefghij0123456789"):
        assert (secret.encode() in redacted) is (secret not in url)


KEY = "sk-secret"


def make_settings(**environment: str) -> UpstreamSettings:
    [upstream] = Settings.from_env({"CHAT_BASE_URL": "http://up.test/v1", **environment}).upstreams
    return upstream


def redact_message(text: str, **environment: str) -> Any:
    return redact_secrets({"message": text}, make_settings(**environment))["message"]


def test_api_key_is_redacted_everywhere() -> None:
    error = {"a": [f"x{KEY}y"], KEY: {"b": KEY}, "c": 1}

    assert redact_secrets(error, make_settings(CHAT_API_KEY=KEY)) == {
        "a": ["x***y"],
        "***": {"b": "***"},
        "c": 1,
    }


@check_each("key", ["", "none", "sk-1234"])
def test_short_key_is_not_a_secret(key: str) -> None:
    error = {"message": f"bad {key} and none"}

    assert redact_secrets(error, make_settings(CHAT_API_KEY=key)) is error


@check_each(
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
    assert redact_message(f"You sent '{secret}'.", CHAT_HEADERS=headers) == "You sent '***'."


@check_each(
    ("query", "query_value"),
    [
        ("key=AIzaSy-short", "AIzaSy-short"),
        ("sig=a%2Fb%3D%2Bcdefg", "a/b=+cdefg"),
        ("sig=a%2Fb%3D%2Bcdefg", "a%2Fb%3D%2Bcdefg"),
        ("code=function-code", "function-code"),
    ],
)
def test_secret_query_values_are_redacted(query: str, query_value: str) -> None:
    assert redact_message(f"at /v1?x={query_value}&y", CHAT_QUERY=query) == "at /v1?x=***&y"


@check_each(
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
    assert list_secrets(make_settings(**environment)) == ()


def test_nested_secrets_are_redacted_completely() -> None:
    variables = {"CHAT_API_KEY": "longsecret", "CHAT_HEADERS": "X-Auth: longsecret-and-more"}

    assert redact_message("is longsecret-and-more or longsecret", **variables) == "is *** or ***"


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
