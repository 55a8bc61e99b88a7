"""Identifiers derived from a client's key."""

from __future__ import annotations

import hashlib
import logging

import pytest

from forwarder.config.settings import Settings
from forwarder.context.client_identity import (
    ANONYMOUS,
    ClientNames,
    derive_owner,
    hash_client_key,
    is_guessable,
    make_account_id,
    make_key_label,
    warn_of_whole_key,
)
from tests.helpers.check_cases import check_each

URL = {"CHAT_BASE_URL": "http://up.test/v1"}


def make_id(key: str | None, address: str | None, **environment: str) -> str:
    return make_account_id(key, address, Settings.from_env({**URL, **environment}))


def test_verified_key_is_the_account_at_any_address() -> None:
    for environment in ({"FORWARDER_API_KEYS": "a,b"}, {"CHAT_API_KEY": "passthrough"}):
        assert make_id("a", "192.0.2.1", **environment) == make_id("a", "192.0.2.2", **environment)
        assert make_id("a", "192.0.2.1", **environment) != make_id("b", "192.0.2.1", **environment)


def test_unverified_key_is_not_an_account() -> None:
    one_passthrough_upstream = {
        "RESPONSES_BASE_URL": "http://up.test/v1",
        "RESPONSES_API_KEY": "sk-ours",
        "CHAT_API_KEY": "passthrough",
    }
    for environment in ({}, one_passthrough_upstream):
        assert make_id("made-up", "192.0.2.1", **environment) == make_id(
            None, "192.0.2.1", **environment
        )
    assert make_id(None, "192.0.2.1") != make_id(None, "192.0.2.2")


@check_each(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        (None, "", True),
    ],
)
def test_ipv6_network_is_one_account(one: str | None, other: str | None, same: bool) -> None:
    assert (make_id(None, one) == make_id(None, other)) is same


def test_account_id_is_an_hmac_under_the_secret_key() -> None:
    keys = {"FORWARDER_API_KEYS": "a,b"}
    plain, *secret = (
        make_id("a", None, **keys, **more)
        for more in (
            {},
            {"FORWARDER_SECRET_KEY": "one"},
            {"FORWARDER_SECRET_KEY": "one,other"},
            {"FORWARDER_SECRET_KEY": "other"},
        )
    )

    assert plain == hashlib.sha256(b"key a").hexdigest()
    assert plain not in secret
    assert secret[0] == secret[1] != secret[2]


def test_both_forms_of_a_key_are_one_account() -> None:
    keys = {"FORWARDER_API_KEYS": "sk-1,bob:alice:sk-1"}

    assert make_id("alice:sk-1", None, FORWARDER_API_KEYS="alice:sk-1") == make_id(
        "sk-1", None, **keys
    )
    assert make_id("bob:alice:sk-1", None, **keys) == make_id("alice:sk-1", None, **keys)
    assert make_id("alice:sk-1", None, **keys) != make_id("sk-1", None, **keys)


def test_owner_depends_on_the_owner_key() -> None:
    digest, other = hash_client_key("key"), hash_client_key("other")
    owner = derive_owner(b"k" * 32, digest)

    assert owner == derive_owner(b"k" * 32, digest)
    assert owner not in (derive_owner(b"K" * 32, digest), derive_owner(b"k" * 32, other))
    assert digest not in owner
    assert (is_guessable(digest), is_guessable(owner)) == (True, False)


def test_clients_without_a_key_share_an_owner() -> None:
    assert hash_client_key(None) == hash_client_key("") == ANONYMOUS
    assert not is_guessable(ANONYMOUS)


def name_client(key: str | None, **environment: str) -> str:
    settings = Settings.from_env({**URL, **environment})
    return ClientNames(settings).find_name(make_account_id(key, "192.0.2.1", settings))


def test_client_has_the_name_of_its_key() -> None:
    keys = {"FORWARDER_API_KEYS": "alice:sk-1,sk-2"}

    assert name_client("sk-1", **keys) == name_client("alice:sk-1", **keys) == "alice"
    assert name_client("removed", **keys) == "unknown"


def test_key_without_a_name_has_a_label_that_depends_on_the_secret() -> None:
    keys = {"FORWARDER_API_KEYS": "alice:sk-1,sk-2"}
    plain = f"key-{hashlib.sha256(b'key sk-2').hexdigest()[:6]}"

    assert name_client("sk-2", **keys) == plain
    label = name_client("sk-2", **keys, FORWARDER_SECRET_KEY="one")
    assert label.startswith("key-")
    assert (len(label), label == plain) == (10, False)


def test_labels_of_keys_are_different() -> None:
    account = "abcdef0123"

    assert make_key_label(account, set()) == "key-abcdef"
    assert make_key_label(account, {"key-abcdef", "key-abcdef0"}) == "key-abcdef01"


def test_clients_are_anonymous_without_configured_keys() -> None:
    assert name_client("made-up") == name_client(None) == "anonymous"
    assert name_client("sk-1", CHAT_API_KEY="passthrough") == "anonymous"


def test_whole_key_is_logged_once_per_client(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "forwarder"):
        for key in ("sk-1", "whole-name:sk-1", "whole-name:sk-1", None):
            warn_of_whole_key(key, "whole-name")

    assert [record.__dict__["event"] for record in caplog.records] == ["client_key_with_name"]
    assert "sk-1" not in caplog.text
