"""Holds one object for each upstream: its client, its state, or its uploads.

An upstream with several endpoints has one object for each of them.  The key of the first endpoint
is the upstream's name; the keys of the others are their origins, and their objects are created on
first use.

Configured upstreams exist as long as the process.  Registered models add and remove upstreams at
run time, so their objects are created on first use and dropped with the upstream.  A request that
is running at that moment continues with the object that it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from forwarder.config.settings import UpstreamSettings

T = TypeVar("T")


class PerUpstream(Mapping[str, T], Generic[T]):
    """Upstream name -> the object that ``make`` creates from the upstream's settings.

    The objects for ``first`` are created at once.
    """

    def __init__(
        self, make: Callable[[UpstreamSettings], T], first: Iterable[UpstreamSettings] = ()
    ) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[UpstreamSettings, T]] = {
            s.entry_name: (s, make(s)) for s in first
        }

    def get_or_create(self, settings: UpstreamSettings) -> T:
        """Return the object of these settings; other settings of that name replace the entry."""
        entry = self._entries.get(settings.entry_name)
        if entry is not None and entry[0] is settings:
            return entry[1]
        with self._lock:
            entry = self._entries.get(settings.entry_name)
            if entry is None or entry[0] is not settings:
                entry = self._entries[settings.entry_name] = settings, self._make(settings)
            return entry[1]

    def drop(self, settings: UpstreamSettings) -> T | None:
        """Remove the object of these settings and return it, so that the caller can close it."""
        with self._lock:
            entry = self._entries.get(settings.entry_name)
            if entry is None or entry[0] is not settings:
                return None
            return self._entries.pop(settings.entry_name)[1]

    def __getitem__(self, name: str) -> T:
        return self._entries[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
