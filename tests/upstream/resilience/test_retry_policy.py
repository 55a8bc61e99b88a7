"""Pauses grow, have jitter, and respect ``Retry-After`` and the limits."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

from forwarder.upstream.resilience.retry_policy import (
    FIRST_DELAY_SECONDS,
    JITTER_SHARE,
    MAX_DELAY_SECONDS,
    Backoff,
    parse_retry_after,
)
from tests.helpers.check_cases import check_each


def list_delays(pauses: Backoff, retry_after: float | None = None) -> list[float]:
    """Return all pauses until the backoff gives up."""
    return list(iter(lambda: pauses.next_delay(retry_after), None))


def test_backoff_doubles_the_delay_up_to_the_maximum() -> None:
    assert list_delays(Backoff(6, 100, chance=lambda: 0)) == [
        0.5,
        1,
        2,
        4,
        MAX_DELAY_SECONDS,
        MAX_DELAY_SECONDS,
    ]


@check_each(("chance", "share"), [(0.0, 1), (0.5, 1 - JITTER_SHARE / 2), (1.0, 1 - JITTER_SHARE)])
def test_backoff_jitter_shortens_the_delay(chance: float, share: float) -> None:
    assert Backoff(1, 100, chance=lambda: chance).next_delay(None) == FIRST_DELAY_SECONDS * share


@check_each("max_delays", [0, 1, 3])
def test_backoff_limits_the_number_of_delays(max_delays: int) -> None:
    assert len(list_delays(Backoff(max_delays, 1000))) == max_delays


def test_backoff_limits_the_sum_of_delays() -> None:
    assert list_delays(Backoff(5, 3.4, chance=lambda: 0)) == [0.5, 1]
    assert list_delays(Backoff(5, 0)) == []


@check_each("chance", [0.0, 1.0])
def test_backoff_respects_retry_after(chance: float) -> None:
    pause = Backoff(1, 10, chance=lambda: chance).next_delay(9.0)

    assert pause is not None
    assert 9 <= pause <= 9 + FIRST_DELAY_SECONDS


def test_backoff_gives_up_if_retry_after_is_too_long() -> None:
    pauses = Backoff(3, 10, chance=lambda: 0)

    assert pauses.next_delay(10.1) is None
    assert pauses.next_delay(9.8) == 9.8
    assert pauses.next_delay(None) is None


NOW = 1_700_000_000.0
HTTP_DATE_IN_30_S = format_datetime(datetime.fromtimestamp(NOW + 30, UTC), usegmt=True)
PAST_HTTP_DATE = format_datetime(datetime.fromtimestamp(NOW - 30, UTC), usegmt=True)


@check_each(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": HTTP_DATE_IN_30_S}, 30.0),
        ({"retry-after": PAST_HTTP_DATE}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, float("inf")),
        ({"retry-after": "1e999"}, float("inf")),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_parse_retry_after_reads_all_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(headers, now=lambda: NOW) == seconds


def test_backoff_gives_up_if_retry_after_is_infinite() -> None:
    assert Backoff(3, 86_400).next_delay(float("inf")) is None
