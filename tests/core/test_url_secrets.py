"""Detection of secrets in URLs, headers and parameters."""

from __future__ import annotations

import time

from forwarder.core.url_secrets import (
    describe_url,
    hide_url_secrets,
    is_secret_name,
    looks_like_secret,
)


def test_secrets_are_detected_by_name_and_by_value() -> None:
    assert is_secret_name("X-Api-Key")
    assert is_secret_name("sig")
    assert not is_secret_name("X-Title")
    assert looks_like_secret("0123456789abcdefABCDEF")
    assert not looks_like_secret("2024-10-21")
    assert not looks_like_secret("abcdefghijklmnopqrstuvwxyz 01234567890123456789")
    assert looks_like_secret("is_ABCDEFGHIJKLMNOPQRSTUV_7, or so")


def test_long_words_are_checked_in_linear_time() -> None:
    began = time.process_time()

    assert not looks_like_secret("x" * 100_000)

    assert time.process_time() - began < 1


def test_url_is_shown_up_to_its_host() -> None:
    hidden_values: list[str] = []
    url = "https://me:pass@a.test:8/s/abcdefghij0123456789/NGQ5ZjY-tYWJj_ZGVm-xyz/mcp?v=1&token=t"

    redacted = hide_url_secrets(f"{url}#k=abcdefghijklmnopqrst", hidden_values.append)

    assert redacted == "https://a.test:8"
    secrets = ["abcdefghij0123456789", "NGQ5ZjY-tYWJj_ZGVm-xyz", "k=abcdefghijklmnopqrst", "t"]
    assert hidden_values == ["pass", "me:pass", *secrets]
    assert hide_url_secrets("a.test/mcp?to=https://b.test/") == "a.test"


def test_very_long_url_is_shown_up_to_its_host_without_a_search() -> None:
    hidden_values: list[str] = []
    url = "https://me:pass@a.test/" + "abcdefghij0123456789/" * 1000

    assert hide_url_secrets(url, hidden_values.append) == "https://a.test"
    assert hidden_values == []


def test_url_is_described_without_possible_secrets() -> None:
    assert describe_url("https://api.test:8/compatible-mode/v1") == (
        "https://api.test:8/compatible-mode/v1"
    )
    assert describe_url("https://me:pass@a.test/abcdefghij0123456789/v1?key=k#f") == (
        "https://a.test/…/v1"
    )
    assert describe_url("http://a.test") == "http://a.test"
