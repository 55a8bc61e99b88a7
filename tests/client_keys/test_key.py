"""Reading of key limits from requests, and their storage."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from forwarder.client_keys import key
from forwarder.client_keys.key import ClientKey
from forwarder.context.client_identity import Budget, ClientGrants
from forwarder.core.errors import InvalidRequest
from forwarder.storage.db.client_keys import ClientKeyRow
from tests.helpers.check_cases import check_each

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0
ALICE = ClientGrants("alice")


def test_secret_is_random_and_only_its_digest_is_needed() -> None:
    first, second = key.generate_secret(), key.generate_secret()
    assert first != second
    assert first.startswith("sk-fwd-")
    assert len(first) == len("sk-fwd-") + 43
    assert len(key.hash_secret(first)) == 64
    assert first not in key.hash_secret(first)


def test_limits_survive_storing() -> None:
    limits = {
        "models": ["gpt-*", "chat/qwen"],
        "requests_per_minute": 60,
        "tokens_per_minute": 1000,
        "budget": "2.5 usd/month",
        "reasoning": ["none", "summary"],
    }
    grants = key.read_limits(limits, ALICE)
    assert key.serialize_limits(grants) == limits
    row = ClientKeyRow("key_1", "alice", "wxyz", "d", None, None, NOW, None, None, None, limits)
    restored = key.restore_key(row)
    assert restored.grants == grants
    assert restored.to_json(NOW) == {
        "object": "client_key",
        "id": "key_1",
        "name": "alice",
        "hint": "sk-fwd-…wxyz",
        "state": "active",
        "created": "2026-05-10T12:00:00Z",
        "expires": None,
        "revoked": None,
        "last_used": None,
        "previous_valid_until": None,
        **limits,
    }


def test_only_named_limits_change() -> None:
    before = ClientGrants("alice", ("a",), 1, 2, Budget(3, "tokens", "day"), ("none",))
    assert key.read_limits({}, before) == before
    assert key.read_limits({"models": "b, c ,,b"}, before).models == ("b", "c")
    removed: dict[str, Any] = dict.fromkeys(key.LIMIT_FIELDS)
    assert key.read_limits(removed, before) == ALICE


@check_each(
    ("text", "budget"),
    [
        ("5 usd/month", Budget(5, "usd", "month")),
        ("0.25 USD per day", Budget(0.25, "usd", "day")),
        ("0.00001 usd/day", Budget(0.00001, "usd", "day")),
        ("1000000 tokens/day", Budget(1_000_000, "tokens", "day")),
        ("1token/month", Budget(1, "tokens", "month")),
        ("0 usd/month", None),
        ("1.5 tokens/day", None),
        ("5 eur/month", None),
        ("5 usd/year", None),
        ("-5 usd/month", None),
        ("٥ usd/month", None),
    ],
)
def test_budget_is_amount_unit_and_period(text: str, budget: Budget | None) -> None:
    assert key.parse_budget(text) == budget
    if budget is not None:
        assert key.parse_budget(str(budget)) == budget


@check_each(
    ("text", "expires"),
    [
        (None, None),
        ("", None),
        ("30d", NOW + 30 * DAY),
        ("2h", NOW + 7200),
        ("2026-05-10", datetime(2026, 5, 11, tzinfo=UTC).timestamp()),
        ("2026-05-10T12:30Z", NOW + 1800),
    ],
)
def test_expiry_is_a_duration_a_date_or_a_time(text: str | None, expires: float | None) -> None:
    assert key.read_expiry(text, NOW) == expires


@check_each(
    ("body", "param"),
    [
        ({"models": 5}, "models"),
        ({"models": ["a", 5]}, "models"),
        ({"models": ["a" * 301]}, "models"),
        ({"models": [str(i) for i in range(101)]}, "models"),
        ({"models": ["a\nb"]}, "models"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"requests_per_minute": "5"}, "requests_per_minute"),
        ({"tokens_per_minute": True}, "tokens_per_minute"),
        ({"tokens_per_minute": 10**13}, "tokens_per_minute"),
        ({"budget": "much"}, "budget"),
        ({"budget": 5}, "budget"),
        ({"reasoning": "loud"}, "reasoning"),
    ],
)
def test_wrong_limit_is_refused_with_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        key.read_limits(body, ALICE)
    assert refused.value.param == param


@check_each("text", ["yesterday", "2026-05-09", "0d", "999999w", "2026-13-01", 5])
def test_wrong_expiry_is_refused(text: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        key.read_expiry(text, NOW)
    assert refused.value.param == "expires"


@check_each("name", [None, "", "a b", "anonymous", "other", "a" * 65, "ä", 5])
def test_wrong_name_is_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        key.read_name({"name": name})
    assert refused.value.param == "name"


def test_unknown_field_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        key.check_fields({"models": [], "rpm": 5}, key.CHANGEABLE_FIELDS)
    assert (refused.value.param, refused.value.code) == ("rpm", "unknown_parameter")


def test_grace_is_a_bounded_duration() -> None:
    assert [key.read_grace(text) for text in (None, "0", "10m", "7d")] == [0, 0, 600, 7 * DAY]
    for wrong in ("91d", "soon", 5):
        with pytest.raises(InvalidRequest):
            key.read_grace(wrong)


def test_state_depends_on_the_time() -> None:
    client_key = ClientKey("key_1", "wxyz", ALICE, NOW, expires=NOW + 10)
    assert [client_key.get_state(NOW + seconds) for seconds in (9, 10)] == ["active", "expired"]
    assert ClientKey("key_1", "wxyz", ALICE, NOW, revoked=NOW).get_state(NOW) == "revoked"
