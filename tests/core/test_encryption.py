from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

import orjson
import pytest
from cryptography.fernet import Fernet, InvalidToken
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.core.encryption import SEAL_PREFIX, TokenCipher, derive_key
from forwarder.core.errors import TooLarge
from forwarder.core.stored_data_limit import RequestLimits, StoredDataLimit
from forwarder.protocols.chat_reasoning import is_seal
from tests.helpers.check_cases import check_each

VALUE = {"reasoning_content": "Let me think — 😀", "reasoning_details": [{"type": "x", "index": 0}]}


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(), st.lists, max_leaves=5)
)
@settings(max_examples=25)
def test_seal_can_be_decrypted(value: Any) -> None:
    sealer = TokenCipher(["secret"])
    assert sealer.decrypt(sealer.encrypt(value)) == value


def test_seal_shows_only_its_prefix() -> None:
    sealed = TokenCipher(["secret"]).encrypt(VALUE)
    assert is_seal(sealed)
    assert sealed.startswith(SEAL_PREFIX)
    assert sealed.isascii()
    assert "Let me think" not in sealed
    assert "secret" not in sealed


def test_first_secret_encrypts_and_all_secrets_decrypt() -> None:
    old, new, both = TokenCipher(["old"]), TokenCipher(["new"]), TokenCipher(["new", "old"])
    assert both.decrypt(old.encrypt(VALUE)) == VALUE
    assert new.decrypt(both.encrypt(VALUE)) == VALUE
    assert new.decrypt(old.encrypt(VALUE)) is None


def test_without_a_secret_one_is_generated() -> None:
    one, other = TokenCipher([]), TokenCipher([])
    assert one.decrypt(one.encrypt(VALUE)) == VALUE
    assert other.decrypt(one.encrypt(VALUE)) is None


@check_each(
    "damaged",
    [
        "",
        "gAAAAforeign",
        SEAL_PREFIX,
        SEAL_PREFIX + "x",
        SEAL_PREFIX + "gAAAA",
        SEAL_PREFIX + "é",
        "fwd3.x",
        "fwd1.x",
    ],
)
def test_foreign_or_damaged_seal_decrypts_to_none(damaged: str) -> None:
    assert TokenCipher(["secret"]).decrypt(damaged) is None


def test_truncated_seal_decrypts_to_none() -> None:
    sealer = TokenCipher(["secret"])
    sealed = sealer.encrypt(VALUE)
    assert sealer.decrypt(sealed[:-1]) is None
    assert sealer.decrypt(sealed[:20] + sealed[21:]) is None


def test_seal_is_bound_to_its_purpose() -> None:
    seal = TokenCipher(["secret"], "remote").encrypt(VALUE)

    assert TokenCipher(["secret"], "remote").decrypt(seal) == VALUE
    assert TokenCipher(["secret"]).decrypt(seal) is None


def test_reencrypted_seal_needs_the_first_secret() -> None:
    old, both = TokenCipher(["old"]), TokenCipher(["new", "old"])
    renewed = both.reencrypt(old.encrypt(VALUE))

    assert renewed is not None
    assert TokenCipher(["new"]).decrypt(renewed) == VALUE
    assert old.decrypt(renewed) is None


@check_each(
    "text", ["", "foreign", SEAL_PREFIX, SEAL_PREFIX + "é", TokenCipher(["lost"]).encrypt(1)]
)
def test_undecryptable_seal_is_not_reencrypted(text: str) -> None:
    assert TokenCipher(["new", "old"]).reencrypt(text) is None


def test_added_secret_encrypts_and_the_earlier_one_still_decrypts() -> None:
    sealer = TokenCipher(["made up"])
    before = sealer.encrypt("x")

    sealer.add_secrets(["shared"])

    assert sealer.decrypt(before) == "x"
    assert TokenCipher(["shared"]).decrypt(sealer.encrypt("y")) == "y"
    assert sealer.decrypt(TokenCipher(["shared"]).encrypt("z")) == "z"


def test_seal_is_bound_to_its_owner() -> None:
    sealer = TokenCipher(["secret"])
    sealed = sealer.encrypt(VALUE, "a")

    assert sealer.decrypt(sealed, "a") == VALUE
    assert sealer.decrypt(sealed, "b") is None
    assert sealer.decrypt(sealed) is None
    assert sealer.decrypt(sealer.encrypt(VALUE), "b") is None


def test_reencrypted_seal_keeps_its_owner() -> None:
    both = TokenCipher(["new", "old"])
    renewed = both.reencrypt(TokenCipher(["old"]).encrypt(VALUE, "a"))

    assert renewed is not None
    assert both.decrypt(renewed, "a") == VALUE
    assert both.decrypt(renewed, "b") is None


def seal_version_1(secret: str, purpose: str, value: Any) -> str:
    """A seal of earlier versions of the forwarder."""
    digest = hashlib.sha256(f"forwarder {purpose}\0{secret}".encode()).digest()
    fernet = Fernet(base64.urlsafe_b64encode(digest))
    return "fwd1." + fernet.encrypt(zlib.compress(orjson.dumps(value), 1)).decode()


@check_each("purpose", ["seal", "remote"])
def test_seals_of_version_1_can_be_decrypted(purpose: str) -> None:
    old = seal_version_1("old", purpose, VALUE)
    both = TokenCipher(["new", "old"], purpose)

    assert both.decrypt(old, "anybody") == both.decrypt(old) == VALUE
    assert TokenCipher(["new"], purpose).decrypt(old) is None
    assert TokenCipher(["old"], "other").decrypt(old) is None
    renewed = both.reencrypt(old)
    assert renewed is not None
    assert renewed.startswith(SEAL_PREFIX)
    assert TokenCipher(["new"], purpose).decrypt(renewed, "anybody") == VALUE


def test_key_is_not_a_plain_hash_of_the_secret() -> None:
    """A seal must not permit fast guessing of secrets."""
    sealed = TokenCipher(["secret"]).encrypt(VALUE)
    for text in ("secret", "forwarder seal\0secret"):
        fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()))
        with pytest.raises(InvalidToken):
            fernet.decrypt(sealed[len(SEAL_PREFIX) :])
    assert derive_key("secret", "a") != derive_key("secret", "b")


def test_accepts_all_owners_disables_the_check_of_owners() -> None:
    sealer = TokenCipher(["secret"])
    sealer.accepts_all_owners = True
    assert sealer.decrypt(sealer.encrypt(VALUE, "a"), "b") == VALUE


def test_decrypted_text_is_counted_before_parsing() -> None:
    sealer, limit = TokenCipher(["s"]), StoredDataLimit(RequestLimits(max_bytes=10_000))
    sealed = sealer.encrypt({"compaction": "x" * 4000})
    for _ in range(2):
        assert sealer.decrypt(sealed, spend=limit.spend) is not None
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY"):
        sealer.decrypt(sealed, spend=limit.spend)
