"""Where records are kept until there are too many of them, or they are too old.

In memory they are one worker's, and go with it.  In a directory they are shared by all workers
that write there, and stay: a file for each, readable by its owner alone, whole or not there.
"""

from __future__ import annotations

import itertools
import os
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from forwarder.core.types import Json
from forwarder.observability.capture.record import summary_of

_NAME = re.compile(r"ex_([0-9a-f]{12})[0-9a-f]{12}")
_ASIDE = ".part"
"""What the name of a file ends with while it is written."""

_SLACK = 500
"""Of so many files that may be there, a worker lets one be too much before it looks: a look goes
over all of them.
"""

_WRITING = 60.0
"""Seconds after which one that is still being written is a dead worker's."""


def new_name(now: float) -> str:
    """The name of an exchange; the later one sorts behind the earlier."""
    return f"ex_{int(now * 1000):012x}{os.urandom(6).hex()}"


def born(name: str) -> float | None:
    """When a name was given, in Unix seconds; ``None`` for what is no such name."""
    match = _NAME.fullmatch(name)
    return int(match[1], 16) / 1000 if match else None


class Limits(NamedTuple):
    """How many records are kept at most, and for how many seconds."""

    most: int
    age: float


class Shelf(Protocol):
    """Keeps records by their names."""

    shared: bool

    def put(self, name: str, said: bytes) -> None:
        """Keep one; the oldest goes when there are too many."""

    def newest(self, limit: int) -> list[Json]:
        """The summaries of the newest, the newest first."""

    def find(self, name: str) -> bytes | None:
        """The record of that name, or the newest whose request had this id."""

    def prune(self) -> None:
        """Let go what is too old."""


class _Kept(NamedTuple):
    name: str
    summary: Json
    packed: bytes


class MemoryShelf:
    """In the memory of this process."""

    shared = False

    def __init__(self, limits: Limits, now: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._now = now
        self._kept: deque[_Kept] = deque(maxlen=limits.most)

    def put(self, name: str, said: bytes) -> None:
        self._kept.append(_Kept(name, summary_of(said), zlib.compress(said, 1)))
        self.prune()

    def newest(self, limit: int) -> list[Json]:
        self.prune()
        return [kept.summary for kept in reversed(list(self._kept))][:limit]

    def find(self, name: str) -> bytes | None:
        self.prune()
        for kept in reversed(list(self._kept)):
            if name in (kept.name, kept.summary["request_id"]):
                return zlib.decompress(kept.packed)
        return None

    def prune(self) -> None:
        before = self._now() - self._limits.age
        with suppress(IndexError):  # another thread may be at it
            while (born(self._kept[0].name) or 0) < before:
                self._kept.popleft()


class FileShelf:
    """In a directory, which is made when there is none."""

    shared = True

    def __init__(
        self, directory: Path, limits: Limits, now: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._puts = itertools.count()
        self._limits = limits
        self._now = now

    def put(self, name: str, said: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(name)
        aside = path.with_name(path.name + _ASIDE)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(said)
        aside.replace(path)
        if next(self._puts) % (self._limits.most // _SLACK + 1) == 0:
            self.prune()

    def newest(self, limit: int) -> list[Json]:
        self.prune()
        found: list[Json] = []
        for _, summary in self._summaries():
            found.append(summary)
            if len(found) == limit:
                break
        return found

    def find(self, name: str) -> bytes | None:
        self.prune()
        if born(name) is not None:
            return self._read(name)
        for own, summary in self._summaries():
            if summary["request_id"] == name:
                return self._read(own)
        return None

    def prune(self) -> None:
        """Let go what is too old or too much, and what a dead worker has not written to its end."""
        names, now = self._names(), self._now()
        kept = names[: self._limits.most]
        gone = names[self._limits.most :]
        gone += [name for name in kept if (born(name) or 0) < now - self._limits.age]
        for path in map(self._path, gone):
            path.unlink(missing_ok=True)
        for path in self._directory.glob(f"ex_*{_ASIDE}"):
            if (born(path.name.partition(".")[0]) or now) < now - _WRITING:
                path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        """The newest first."""
        names = (path.stem for path in self._directory.glob("ex_*.json"))
        return sorted((name for name in names if born(name) is not None), reverse=True)

    def _summaries(self) -> Iterator[tuple[str, Json]]:
        for name in self._names():
            with suppress(OSError, ValueError), self._path(name).open("rb") as file:
                yield name, summary_of(file.readline())

    def _read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"
