"""The memory backend: values, eviction and expiry."""

from __future__ import annotations

import pytest

from forwarder.middleware.reasoning_cache import memory_backend
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend


def test_latest_value_is_found() -> None:
    kept = MemoryBackend(60)
    kept.put(b"a", b"old")
    kept.put(b"a", b"new")

    assert kept.get(b"a") == b"new"
    assert kept.get(b"b") is None


def test_least_recently_used_value_is_evicted() -> None:
    kept = MemoryBackend(60, max_values=2)
    for key in (b"a", b"b"):
        kept.put(key, b"x")
    kept.get(b"a")
    kept.put(b"c", b"x")

    assert [kept.get(key) for key in (b"a", b"b", b"c")] == [b"x", None, b"x"]


def test_total_size_is_limited() -> None:
    kept = MemoryBackend(60, max_bytes=10)
    kept.put(b"a", b"12345")
    kept.put(b"a", b"123456")
    kept.put(b"b", b"1234")
    assert kept.get(b"a") == b"123456"
    kept.put(b"c", b"12345678901")  # would not fit alone

    assert [kept.get(key) for key in (b"a", b"b", b"c")] == [b"123456", b"1234", None]
    kept.put(b"d", b"1234567890")
    assert [kept.get(key) for key in (b"a", b"b", b"d")] == [None, None, b"1234567890"]


def test_values_expire_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(memory_backend.time, "monotonic", lambda: now[0])
    kept = MemoryBackend(10)
    kept.put(b"a", b"x")
    kept.put(b"b", b"x")
    now[0] = 8
    assert kept.get(b"a") == b"x"
    now[0] = 15

    assert [kept.get(b"a"), kept.get(b"b")] == [b"x", None]
    now[0] = 26
    assert kept.get(b"a") is None
