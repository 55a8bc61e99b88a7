"""Which words of an address, a header or a parameter are secrets."""

from __future__ import annotations

import time

from forwarder.url_secrets import hide_url_secrets, is_random, is_telling


def test_a_name_tells_of_a_secret_and_so_does_a_value() -> None:
    assert is_telling("X-Api-Key")
    assert is_telling("sig")
    assert not is_telling("X-Title")
    assert is_random("0123456789abcdefABCDEF")
    assert not is_random("2024-10-21")
    assert not is_random("abcdefghijklmnopqrstuvwxyz 01234567890123456789")
    assert is_random("is_ABCDEFGHIJKLMNOPQRSTUV_7, or so")


def test_a_long_word_is_seen_at_once() -> None:
    began = time.process_time()

    assert not is_random("x" * 100_000)

    assert time.process_time() - began < 1


def test_every_secret_of_an_address_is_given_to_who_hides_it() -> None:
    hidden: list[str] = []

    def hide(secret: str) -> str:
        hidden.append(secret)
        return "?"

    shown = hide_url_secrets("https://me:pass@a.test/s/abcdefghij0123456789?v=1&token=t", hide)

    assert shown == "https://?@a.test/s/??v=1&token=?"
    assert hidden == ["pass", "me:pass", "abcdefghij0123456789", "t"]
    assert hide_url_secrets("https://a.test/mcp?v=1") == "https://a.test/mcp?v=1"
