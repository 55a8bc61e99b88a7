"""Everything is closed, once, whatever happens on the way."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from forwarder.core.cleanup import CleanupStack


def fail() -> None:
    raise ValueError("stuck")


def test_the_last_is_closed_first_and_each_once() -> None:
    closed: list[str] = []
    closers = CleanupStack()
    for name in "abc":
        closers.add(closed.append, name)

    closers.close()
    closers.close()

    assert closed == ["c", "b", "a"]


def test_what_was_there_before_stays_open() -> None:
    closed: list[str] = []
    closers = CleanupStack()
    closers.add(closed.append, "a")
    before = len(closers)
    closers.add(closed.append, "b")
    closers.add(closed.append, "c")

    closers.close(keep_first=before)
    assert closed == ["c", "b"]
    closers.close()
    assert closed == ["c", "b", "a"]


def test_one_that_cannot_be_closed_is_logged_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[str] = []
    closers = CleanupStack()
    closers.add(closed.append, "a")
    closers.add(fail)

    closers.close()

    assert closed == ["a"]
    assert "could not close fail: stuck" in caplog.text
    assert caplog.records[0].__dict__["event"] == "cleanup_failed"


def test_the_end_of_the_process_meanwhile_stops_no_other() -> None:
    closed: list[str] = []
    closers = CleanupStack()
    closers.add(closed.append, "a")
    closers.add(sys.exit)
    closers.add(closed.append, "b")

    with pytest.raises(SystemExit):
        closers.close()

    assert closed == ["b", "a"]


def test_what_is_added_after_the_end_has_an_end_of_its_own() -> None:
    closed: list[str] = []
    closers = CleanupStack()
    closers.close()
    closers.add(closed.append, "late")
    assert not closed

    closers.close()

    assert closed == ["late"]


def test_threads_that_close_at_once_close_each_once() -> None:
    closed: list[int] = []
    closers = CleanupStack()
    for number in range(5000):
        closers.add(closed.append, number)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(closers.close)

    assert sorted(closed) == list(range(5000))
