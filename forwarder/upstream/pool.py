"""What there is one of for each upstream: its client, its standing, its uploads.

Upstreams of the configuration are there for the life of the process.  Others come and go while it
runs, so what belongs to one is made when it is first asked for and dropped with it; a request that
began before that goes on with what it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from forwarder.config.settings import UpstreamSettings

T = TypeVar("T")


class UpstreamPool(Mapping[str, T], Generic[T]):
    """Name -> what ``make`` made of that upstream's settings; those of ``first`` at once."""

    def __init__(
        self, make: Callable[[UpstreamSettings], T], first: Iterable[UpstreamSettings] = ()
    ) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[UpstreamSettings, T]] = {s.name: (s, make(s)) for s in first}

    def get_or_create(self, settings: UpstreamSettings) -> T:
        """What belongs to these very settings; others of their name are another upstream's."""
        kept = self._entries.get(settings.name)
        if kept is not None and kept[0] is settings:
            return kept[1]
        with self._lock:
            kept = self._entries.get(settings.name)
            if kept is None or kept[0] is not settings:
                kept = self._entries[settings.name] = settings, self._make(settings)
            return kept[1]

    def drop(self, settings: UpstreamSettings) -> T | None:
        """Forget what belongs to these settings; gives it, so that it can be closed."""
        with self._lock:
            kept = self._entries.get(settings.name)
            if kept is None or kept[0] is not settings:
                return None
            return self._entries.pop(settings.name)[1]

    def rebuild(self) -> None:
        """Make all of it once more."""
        with self._lock:
            every = [settings for settings, _ in self._entries.values()]
            self._entries = {each.name: (each, self._make(each)) for each in every}

    def __getitem__(self, name: str) -> T:
        return self._entries[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
