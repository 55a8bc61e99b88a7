"""An observer that overrides nothing disturbs nothing."""

from __future__ import annotations

from forwarder.resilience import Observer


def test_whoever_does_not_want_to_know_need_not() -> None:
    observer = Observer()

    heard = [
        observer.retried("up", "503"),
        observer.fell_back("up", "other", "503"),
        observer.breaker("up", "open"),
        observer.refused("overloaded"),
        observer.refused("upstream_unavailable", "up"),
    ]

    assert heard == [None] * 5
