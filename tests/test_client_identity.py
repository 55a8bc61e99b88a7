"""Whose request it is: by its key where keys are checked, by its address otherwise."""

from __future__ import annotations

import pytest

from forwarder.client_identity import payer
from forwarder.config import Settings

URL = {"CHAT_BASE_URL": "http://up.test/v1"}


def of(key: str | None, address: str | None, **environment: str) -> str:
    return payer(key, address, Settings.from_env({**URL, **environment}))


def test_a_key_that_is_checked_pays_wherever_it_comes_from() -> None:
    for checked in ({"FORWARDER_API_KEYS": "a,b"}, {"CHAT_API_KEY": "passthrough"}):
        assert of("a", "192.0.2.1", **checked) == of("a", "192.0.2.2", **checked)
        assert of("a", "192.0.2.1", **checked) != of("b", "192.0.2.1", **checked)


def test_a_key_that_nobody_checks_is_no_account_of_its_own() -> None:
    mixed = {
        "RESPONSES_BASE_URL": "http://up.test/v1",
        "RESPONSES_API_KEY": "sk-ours",
        "CHAT_API_KEY": "passthrough",
    }
    for unchecked in ({}, mixed):
        assert of("made-up", "192.0.2.1", **unchecked) == of(None, "192.0.2.1", **unchecked)
    assert of(None, "192.0.2.1") != of(None, "192.0.2.2")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        (None, "", True),
    ],
)
def test_a_network_is_one_account(one: str | None, other: str | None, same: bool) -> None:
    assert (of(None, one) == of(None, other)) is same
