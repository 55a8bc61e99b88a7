"""The scale-out test reports broken promises."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bench.promises import (
    KeyTimes,
    Limited,
    Options,
    Outcome,
    Result,
    UsageComparison,
    format_report,
    format_times,
    list_faults,
)
from tests.helpers.check_cases import check_each

OPTIONS = Options(seconds=60, conversations=4, workers=2, words=150, seed=1, kill=True)


def make_result(counted: int = 900, **values: Any) -> Result:
    """A result without faults, except for these values."""
    outcome = Outcome(
        requests=100,
        turns=Counter(whole=40, streamed=10),
        requests_limit=Limited(200, allowed=200, refused=9),
        tokens_limit=Limited(5000, 50, allowed=5050, refused=450),
        made=KeyTimes([0.11, 0.15], [0.0, 0.0]),
        revoked=KeyTimes([0.12], [0.0]),
        killed_at=1.0,
        return_seconds=2.5,
    )
    for name, value in values.items():
        setattr(outcome, name, value)
    usage = [UsageComparison(counted, 1000, 100)]
    return Result(outcome, OPTIONS, 61.0, usage, 2**20, Counter())


@check_each(
    ("values", "fault"),
    [
        ({}, None),
        ({"lost": ["c1: gone"]}, "c1: gone"),
        ({"incomplete": ["resp_1: queued"]}, "not completed: resp_1: queued"),
        ({"requests_limit": Limited(200, allowed=203, refused=1)},
         "requests a minute: 203 were allowed with a limit of 200"),
        ({"requests_limit": Limited(200, allowed=197, refused=1)},
         "requests a minute: 197 were allowed with a limit of 200"),
        ({"requests_limit": Limited(200, allowed=197, refused=1, unknown=1)}, None),
        ({"tokens_limit": Limited(5000, 50, allowed=4000)},
         "tokens a minute: the limit was not reached"),
        ({"made": KeyTimes([0.1], [0.03])}, "a new key was 0.03 s late"),
        ({"revoked": KeyTimes()}, "no revoked key was checked"),
        ({"http_errors": Counter({"502 of nginx/1.22.1": 3})}, None),
        ({"http_errors": Counter({"502 of nginx/1.22.1": 3}), "killed_at": None},
         "3 × 502 of nginx/1.22.1"),
        ({"program_errors": Counter({"500 internal_error": 1})}, "1 × 500 internal_error"),
        # usage may lack what the killed machine had not stored
        ({"counted": 1000}, None),
        ({"counted": 899}, "usage: 101 tokens are missing, and at most 100 may be"),
        ({"counted": 1001}, "usage: -1 tokens are missing, and at most 100 may be"),
    ],
)  # fmt: skip
def test_broken_promises_are_listed(values: dict[str, Any], fault: str | None) -> None:
    assert list(list_faults(make_result(**values))) == ([fault] if fault else [])


def test_table_has_the_results() -> None:
    lines = format_report(make_result()).splitlines()
    rows = dict(line.strip("| ").split(" | ") for line in lines[2:])
    assert rows["turns that clients have received"] == "50 (40 × whole, 10 × streamed)"
    assert rows["turns lost"] == "0"
    assert rows["tokens a minute: allowed / limit"] == "5050 / 5000 (450 refused)"
    assert rows["new keys"] == (
        "2; effective 0.15 s after the request at the latest, 0 later than its answer"
    )
    assert rows["database, per million turns (answers of 150 words)"] == "19.5 GiB"


def test_table_shows_how_late_a_key_was() -> None:
    assert format_times(KeyTimes([0.1], [0.2])).endswith(
        "1 later than its answer (by up to 0.20 s)"
    )
