"""How long an endpoint is not called after a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import (
    ForwarderError,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnreachable,
)
from forwarder.upstream.resilience.cooldowns import MAX_MODELS, Cooldown, Cooldowns
from tests.helpers.check_cases import check_each
from tests.upstream.resilience.helpers import Clock


def refuse(status: int, headers: dict[str, str] | None = None, **error: Any) -> UpstreamRefused:
    return UpstreamRefused(status, {"message": "no", **error}, headers)


@check_each(
    ("error", "model", "seconds"),
    [
        (refuse(429, {"retry-after": "7"}), "m", 7),
        (refuse(429, {"retry-after-ms": "1500"}), "m", 1.5),
        (refuse(429, {"retry-after": "100000"}), "m", 3600),
        (refuse(429), "m", 15),
        (refuse(402), "", 300),
        (refuse(429, code="insufficient_quota"), "", 300),
        (refuse(429, {"retry-after": "9"}, code="insufficient_quota"), "", 9),
        (UpstreamKeyRefused("no"), "", 600),
    ],
)
def test_refusal_starts_a_cooldown(error: ForwarderError, model: str, seconds: float) -> None:
    clock = Clock()
    cooldowns = Cooldowns(15, clock)

    cooldown = cooldowns.start(error, "m")

    assert cooldown is not None
    assert (cooldown.model, cooldown.until - clock()) == (model, seconds)
    assert cooldowns.find("m") is cooldown
    assert (cooldowns.find("other") is cooldown) is (model == "")
    clock.advance(seconds)
    assert cooldowns.find("m") is None
    assert cooldowns.list_current() == []


@check_each("error", [refuse(400), refuse(500), refuse(503), refuse(413), UpstreamUnreachable("x")])
def test_other_failures_start_no_cooldown(error: ForwarderError) -> None:
    cooldowns = Cooldowns(15)

    assert cooldowns.start(error, "m") is None
    assert cooldowns.find("m") is None


def test_cooldown_repeats_the_refusal_with_the_remaining_seconds() -> None:
    cooldowns = Cooldowns(15)
    cooldowns.start(
        refuse(429, {"retry-after": "7"}, code="rate_limit_exceeded", other="secret"), "m"
    )
    cooldown = cooldowns.find("m")
    assert cooldown is not None

    error = cooldown.make_error(2.2)

    assert (error.status, error.code, error.message) == (429, "rate_limit_exceeded", "no")
    assert error.headers == {"retry-after": "3"}
    assert "secret" not in repr(error.make_body())


def test_longer_cooldown_remains() -> None:
    clock = Clock()
    cooldowns = Cooldowns(15, clock)
    cooldowns.start(refuse(429, {"retry-after": "60"}), "m")
    cooldowns.start(refuse(429, {"retry-after": "5"}), "m")

    clock.advance(6)

    assert cooldowns.find("m") is not None


def test_accepted_key_ends_its_cooldown_only() -> None:
    cooldowns = Cooldowns(15)
    cooldowns.start(UpstreamKeyRefused("no"), "m")
    cooldowns.start(refuse(429), "m")

    cooldowns.end_account_cooldown()

    found = cooldowns.find("m")
    assert found is not None
    assert found.status == 429
    assert cooldowns.find("other") is None


def test_number_of_models_that_cool_down_is_bounded() -> None:
    cooldowns = Cooldowns(15)
    for number in range(MAX_MODELS + 10):
        cooldowns.start(refuse(429), f"m{number}")

    assert len(cooldowns.list_current()) == MAX_MODELS
    cooldowns.add(Cooldown("", 1e12, 402, {}))
    assert cooldowns.find("whichever") is not None


def test_key_refusal_is_raised_again() -> None:
    cooldowns = Cooldowns(15)
    cooldown = cooldowns.start(UpstreamKeyRefused("The key is wrong."), "m")
    assert cooldown is not None

    with pytest.raises(UpstreamKeyRefused, match="The key is wrong"):
        raise cooldown.make_error(5)
