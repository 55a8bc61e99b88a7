"""Each cleanup callback runs once, even if others fail."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from forwarder.core.cleanup import CleanupStack


def fail() -> None:
    raise ValueError("stuck")


def test_cleanup_runs_each_callback_once_last_in_first_out() -> None:
    closed: list[str] = []
    cleanup = CleanupStack()
    for name in "abc":
        cleanup.add(closed.append, name)

    cleanup.close()
    cleanup.close()

    assert closed == ["c", "b", "a"]


def test_cleanup_keeps_the_first_callbacks() -> None:
    closed: list[str] = []
    cleanup = CleanupStack()
    cleanup.add(closed.append, "a")
    before = len(cleanup)
    cleanup.add(closed.append, "b")
    cleanup.add(closed.append, "c")

    cleanup.close(keep_first=before)
    assert closed == ["c", "b"]
    cleanup.close()
    assert closed == ["c", "b", "a"]


def test_failing_cleanup_is_logged_and_others_still_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[str] = []
    cleanup = CleanupStack()
    cleanup.add(closed.append, "a")
    cleanup.add(fail)

    cleanup.close()

    assert closed == ["a"]
    assert "could not close fail: stuck" in caplog.text
    assert caplog.records[0].__dict__["event"] == "cleanup_failed"


def test_system_exit_during_cleanup_runs_the_other_callbacks() -> None:
    closed: list[str] = []
    cleanup = CleanupStack()
    cleanup.add(closed.append, "a")
    cleanup.add(sys.exit)
    cleanup.add(closed.append, "b")

    with pytest.raises(SystemExit):
        cleanup.close()

    assert closed == ["b", "a"]


def test_cleanup_can_be_used_again_after_close() -> None:
    closed: list[str] = []
    cleanup = CleanupStack()
    cleanup.close()
    cleanup.add(closed.append, "late")
    assert not closed

    cleanup.close()

    assert closed == ["late"]


def test_concurrent_closes_run_each_callback_once() -> None:
    closed: list[int] = []
    cleanup = CleanupStack()
    for number in range(5000):
        cleanup.add(closed.append, number)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(cleanup.close)

    assert sorted(closed) == list(range(5000))
