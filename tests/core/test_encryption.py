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

from forwarder.core.encryption import PREFIX, Sealer, derive_key
from forwarder.core.errors import TooLarge
from forwarder.core.read_limit import ReadLimit, RequestLimits
from forwarder.protocols.chat_reasoning import is_own

VALUE = {"reasoning_content": "Hm — 😀", "reasoning_details": [{"type": "x", "index": 0}]}


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(), st.lists, max_leaves=5)
)
@settings(max_examples=25)
def test_what_is_sealed_can_be_opened_again(value: Any) -> None:
    sealer = Sealer(["secret"])
    assert sealer.unseal(sealer.seal(value)) == value


def test_a_seal_says_whose_it_is_and_nothing_else() -> None:
    sealed = Sealer(["secret"]).seal(VALUE)
    assert is_own(sealed)
    assert sealed.startswith(PREFIX)
    assert sealed.isascii()
    assert "Hm" not in sealed
    assert "secret" not in sealed


def test_the_first_secret_seals_and_every_secret_opens() -> None:
    old, new, both = Sealer(["old"]), Sealer(["new"]), Sealer(["new", "old"])
    assert both.unseal(old.seal(VALUE)) == VALUE
    assert new.unseal(both.seal(VALUE)) == VALUE
    assert new.unseal(old.seal(VALUE)) is None


def test_without_a_secret_one_is_made_up() -> None:
    one, other = Sealer([]), Sealer([])
    assert one.unseal(one.seal(VALUE)) == VALUE
    assert other.unseal(one.seal(VALUE)) is None


@pytest.mark.parametrize(
    "damaged",
    ["", "gAAAAforeign", PREFIX, PREFIX + "x", PREFIX + "gAAAA", PREFIX + "é", "fwd3.x", "fwd1.x"],
)
def test_what_is_foreign_or_damaged_is_nothing(damaged: str) -> None:
    assert Sealer(["secret"]).unseal(damaged) is None


def test_a_seal_that_lost_a_character_is_nothing() -> None:
    sealer = Sealer(["secret"])
    sealed = sealer.seal(VALUE)
    assert sealer.unseal(sealed[:-1]) is None
    assert sealer.unseal(sealed[:20] + sealed[21:]) is None


def test_what_is_sealed_for_one_purpose_opens_for_no_other() -> None:
    kept = Sealer(["secret"], "remote").seal(VALUE)

    assert Sealer(["secret"], "remote").unseal(kept) == VALUE
    assert Sealer(["secret"]).unseal(kept) is None


def test_a_renewed_seal_opens_with_the_first_secret_alone() -> None:
    old, both = Sealer(["old"]), Sealer(["new", "old"])
    renewed = both.renewed(old.seal(VALUE))

    assert renewed is not None
    assert Sealer(["new"]).unseal(renewed) == VALUE
    assert old.unseal(renewed) is None


@pytest.mark.parametrize("text", ["", "foreign", PREFIX, PREFIX + "é", Sealer(["lost"]).seal(1)])
def test_what_cannot_be_opened_is_not_renewed(text: str) -> None:
    assert Sealer(["new", "old"]).renewed(text) is None


def test_adopted_secret_seals_and_the_former_one_still_opens() -> None:
    sealer = Sealer(["made up"])
    before = sealer.seal("x")

    sealer.adopt(["shared"])

    assert sealer.unseal(before) == "x"
    assert Sealer(["shared"]).unseal(sealer.seal("y")) == "y"
    assert sealer.unseal(Sealer(["shared"]).seal("z")) == "z"


def test_a_seal_opens_for_its_owner_alone() -> None:
    sealer = Sealer(["secret"])
    sealed = sealer.seal(VALUE, "a")

    assert sealer.unseal(sealed, "a") == VALUE
    assert sealer.unseal(sealed, "b") is None
    assert sealer.unseal(sealed) is None
    assert sealer.unseal(sealer.seal(VALUE), "b") is None


def test_a_renewed_seal_keeps_its_owner() -> None:
    both = Sealer(["new", "old"])
    renewed = both.renewed(Sealer(["old"]).seal(VALUE, "a"))

    assert renewed is not None
    assert both.unseal(renewed, "a") == VALUE
    assert both.unseal(renewed, "b") is None


def seal_version_1(secret: str, purpose: str, value: Any) -> str:
    """A seal as earlier versions of the forwarder made it."""
    digest = hashlib.sha256(f"forwarder {purpose}\0{secret}".encode()).digest()
    fernet = Fernet(base64.urlsafe_b64encode(digest))
    return "fwd1." + fernet.encrypt(zlib.compress(orjson.dumps(value), 1)).decode()


@pytest.mark.parametrize("purpose", ["seal", "remote"])
def test_seals_of_version_1_can_still_be_opened(purpose: str) -> None:
    old = seal_version_1("old", purpose, VALUE)
    both = Sealer(["new", "old"], purpose)

    assert both.unseal(old, "anybody") == both.unseal(old) == VALUE
    assert Sealer(["new"], purpose).unseal(old) is None
    assert Sealer(["old"], "other").unseal(old) is None
    renewed = both.renewed(old)
    assert renewed is not None
    assert renewed.startswith(PREFIX)
    assert Sealer(["new"], purpose).unseal(renewed, "anybody") == VALUE


def test_the_key_is_no_plain_hash_of_the_secret() -> None:
    """Whoever has a seal must not be able to try secrets fast."""
    sealed = Sealer(["secret"]).seal(VALUE)
    for text in ("secret", "forwarder seal\0secret"):
        fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()))
        with pytest.raises(InvalidToken):
            fernet.decrypt(sealed[len(PREFIX) :])
    assert derive_key("secret", "a") != derive_key("secret", "b")


def test_the_operator_may_open_what_is_anybodys() -> None:
    sealer = Sealer(["secret"])
    sealer.opens_all = True
    assert sealer.unseal(sealer.seal(VALUE, "a"), "b") == VALUE


def test_what_is_opened_is_counted_before_it_is_parsed() -> None:
    sealer, limit = Sealer(["s"]), ReadLimit(RequestLimits(max_bytes=10_000))
    sealed = sealer.seal({"compaction": "x" * 4000})
    for _ in range(2):
        assert sealer.unseal(sealed, spend=limit.spend) is not None
    with pytest.raises(TooLarge, match="FORWARDER_MAX_BODY"):
        sealer.unseal(sealed, spend=limit.spend)
