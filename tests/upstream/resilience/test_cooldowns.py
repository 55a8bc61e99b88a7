"""How long an endpoint is left alone after a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import (
    ForwarderError,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamUnreachable,
)
from forwarder.upstream.resilience.cooldowns import MAX_MODELS, Rest, Rests
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
def test_refusal_starts_a_rest(error: ForwarderError, model: str, seconds: float) -> None:
    clock = Clock()
    rests = Rests(15, clock)

    rest = rests.start(error, "m")

    assert rest is not None
    assert (rest.model, rest.until - clock()) == (model, seconds)
    assert rests.find("m") is rest
    assert (rests.find("other") is rest) is (model == "")
    clock.pass_(seconds)
    assert rests.find("m") is None
    assert rests.list_current() == []


@check_each("error", [refuse(400), refuse(500), refuse(503), refuse(413), UpstreamUnreachable("x")])
def test_other_failures_start_no_rest(error: ForwarderError) -> None:
    rests = Rests(15)

    assert rests.start(error, "m") is None
    assert rests.find("m") is None


def test_rest_repeats_the_refusal_with_the_remaining_seconds() -> None:
    rests = Rests(15)
    rests.start(refuse(429, {"retry-after": "7"}, code="rate_limit_exceeded", other="secret"), "m")
    rest = rests.find("m")
    assert rest is not None

    error = rest.make_error(2.2)

    assert (error.status, error.code, error.message) == (429, "rate_limit_exceeded", "no")
    assert error.headers == {"retry-after": "3"}
    assert "secret" not in repr(error.make_body())


def test_longer_rest_remains() -> None:
    clock = Clock()
    rests = Rests(15, clock)
    rests.start(refuse(429, {"retry-after": "60"}), "m")
    rests.start(refuse(429, {"retry-after": "5"}), "m")

    clock.pass_(6)

    assert rests.find("m") is not None


def test_accepted_key_ends_its_rest_only() -> None:
    rests = Rests(15)
    rests.start(UpstreamKeyRefused("no"), "m")
    rests.start(refuse(429), "m")

    rests.end_account_rest()

    found = rests.find("m")
    assert found is not None
    assert found.status == 429
    assert rests.find("other") is None


def test_number_of_resting_models_is_bounded() -> None:
    rests = Rests(15)
    for number in range(MAX_MODELS + 10):
        rests.start(refuse(429), f"m{number}")

    assert len(rests.list_current()) == MAX_MODELS
    rests.add(Rest("", 1e12, 402, {}))
    assert rests.find("whichever") is not None


def test_key_refusal_is_raised_again() -> None:
    rests = Rests(15)
    rest = rests.start(UpstreamKeyRefused("The key is wrong."), "m")
    assert rest is not None

    with pytest.raises(UpstreamKeyRefused, match="The key is wrong"):
        raise rest.make_error(5)
