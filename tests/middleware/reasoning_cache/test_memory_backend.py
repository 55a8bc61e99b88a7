"""The memory backend: values, eviction and expiry."""

from __future__ import annotations

import pytest

from forwarder.middleware.reasoning_cache import memory_backend
from forwarder.middleware.reasoning_cache.memory_backend import MemoryBackend


def test_latest_value_is_found() -> None:
    backend = MemoryBackend(60)
    backend.put(b"a", b"old")
    backend.put(b"a", b"new")

    assert backend.get(b"a") == b"new"
    assert backend.get(b"b") is None


def test_least_recently_used_value_is_evicted() -> None:
    backend = MemoryBackend(60, max_values=2)
    for key in (b"a", b"b"):
        backend.put(key, b"x")
    backend.get(b"a")
    backend.put(b"c", b"x")

    assert [backend.get(key) for key in (b"a", b"b", b"c")] == [b"x", None, b"x"]


def test_total_size_is_limited() -> None:
    backend = MemoryBackend(60, max_bytes=10)
    backend.put(b"a", b"12345")
    backend.put(b"a", b"123456")
    backend.put(b"b", b"1234")
    assert backend.get(b"a") == b"123456"
    backend.put(b"c", b"12345678901")  # would not fit alone

    assert [backend.get(key) for key in (b"a", b"b", b"c")] == [b"123456", b"1234", None]
    backend.put(b"d", b"1234567890")
    assert [backend.get(key) for key in (b"a", b"b", b"d")] == [None, None, b"1234567890"]


def test_values_expire_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(memory_backend.time, "monotonic", lambda: now[0])
    backend = MemoryBackend(10)
    backend.put(b"a", b"x")
    backend.put(b"b", b"x")
    now[0] = 8
    assert backend.get(b"a") == b"x"
    now[0] = 15

    assert [backend.get(b"a"), backend.get(b"b")] == [b"x", None]
    now[0] = 26
    assert backend.get(b"a") is None
