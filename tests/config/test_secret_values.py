"""Secrets in the values of settings."""

from __future__ import annotations

from forwarder.config.secret_values import (
    find_connection_secrets,
    find_named_secrets,
    find_path_secrets,
    list_key,
    list_keys,
)
from tests.helpers.check_cases import check_each


def test_keys_are_secrets() -> None:
    assert list_key(None) == ()
    assert list_key("sk-a") == ("sk-a",)
    assert list_keys({"sk-a": ("think",)}) == ("sk-a",)


def test_values_with_the_name_or_form_of_a_secret_are_secrets() -> None:
    values = {"X-Auth": "Bearer tok", "X-Title": "My App", "X-Id": "a1b2c3d4e5f6a7b8c9d0"}

    assert [*find_named_secrets(values)] == ["Bearer", "tok", "a1b2c3d4e5f6a7b8c9d0"]


@check_each(
    ("url", "secrets"),
    [
        (None, []),
        ("https://h/openai/deployments/gpt/v1", []),
        ("https://h/a1b2c3d4e5f6a7b8c9d0/v1", ["a1b2c3d4e5f6a7b8c9d0"]),
    ],
)
def test_random_parts_of_a_path_are_secrets(url: str | None, secrets: list[str]) -> None:
    assert [*find_path_secrets(url)] == secrets


@check_each(
    ("url", "secrets"),
    [
        ("none", set()),
        ("memory://", set()),
        ("sqlite:///forwarder.db", set()),
        ("postgresql://user@h/d", set()),
        ("postgresql://user:p%40ss@h1,h2:5433/d?connect_timeout=3", {"p%40ss", "p@ss"}),
        ("postgresql:///d?user=me&password=p%40ss", {"p@ss"}),
        ("redis+unix://:pa-ss@/run/redis.sock", {"pa-ss"}),
        ("postgresql://user:pa/s#s?w@h/d", {"pa/s#s?w"}),
        ("postgresql://user:postgres@h/d", set()),
    ],
)
def test_passwords_in_addresses_of_databases_are_secrets(url: str, secrets: set[str]) -> None:
    assert {*find_connection_secrets(url)} == secrets
