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
from forwarder.observability.capture.record import parse_summary

RECORD_NAME = re.compile(r"ex_([0-9a-f]{12})[0-9a-f]{12}")
PARTIAL_SUFFIX = ".part"
"""What the name of a file ends with while it is written."""

PRUNE_SLACK = 500
"""Of so many files that may be there, a worker lets one be too much before it looks: a look goes
over all of them.
"""

MAX_WRITE_SECONDS = 60.0
"""Seconds after which one that is still being written is a dead worker's."""


def generate_name(now: float) -> str:
    """The name of an exchange; the later one sorts behind the earlier."""
    return f"ex_{int(now * 1000):012x}{os.urandom(6).hex()}"


def parse_created_at(name: str) -> float | None:
    """When a name was given, in Unix seconds; ``None`` for what is no such name."""
    match = RECORD_NAME.fullmatch(name)
    return int(match[1], 16) / 1000 if match else None


class CaptureLimits(NamedTuple):
    """How many records are kept at most, and for how many seconds."""

    max_records: int
    max_age: float


class CaptureStore(Protocol):
    """Keeps records by their names."""

    is_shared: bool

    def put(self, name: str, said: bytes) -> None:
        """Keep one; the oldest goes when there are too many."""

    def list_newest(self, limit: int) -> list[Json]:
        """The summaries of the newest, the newest first."""

    def find(self, name: str) -> bytes | None:
        """The record of that name, or the newest whose request had this id."""

    def prune(self) -> None:
        """Let go what is too old."""


class StoredRecord(NamedTuple):
    name: str
    summary: Json
    compressed: bytes


class MemoryCaptureStore:
    """In the memory of this process."""

    is_shared = False

    def __init__(self, limits: CaptureLimits, now: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._now = now
        self._records: deque[StoredRecord] = deque(maxlen=limits.max_records)

    def put(self, name: str, said: bytes) -> None:
        self._records.append(StoredRecord(name, parse_summary(said), zlib.compress(said, 1)))
        self.prune()

    def list_newest(self, limit: int) -> list[Json]:
        self.prune()
        return [kept.summary for kept in reversed(list(self._records))][:limit]

    def find(self, name: str) -> bytes | None:
        self.prune()
        for kept in reversed(list(self._records)):
            if name in (kept.name, kept.summary["request_id"]):
                return zlib.decompress(kept.compressed)
        return None

    def prune(self) -> None:
        before = self._now() - self._limits.max_age
        with suppress(IndexError):  # another thread may be at it
            while (parse_created_at(self._records[0].name) or 0) < before:
                self._records.popleft()


class FileCaptureStore:
    """In a directory, which is made when there is none."""

    is_shared = True

    def __init__(
        self, directory: Path, limits: CaptureLimits, now: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._put_counter = itertools.count()
        self._limits = limits
        self._now = now

    def put(self, name: str, said: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._make_path(name)
        aside = path.with_name(path.name + PARTIAL_SUFFIX)
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(said)
        aside.replace(path)
        if next(self._put_counter) % (self._limits.max_records // PRUNE_SLACK + 1) == 0:
            self.prune()

    def list_newest(self, limit: int) -> list[Json]:
        self.prune()
        found: list[Json] = []
        for _, summary in self._iterate_summaries():
            found.append(summary)
            if len(found) == limit:
                break
        return found

    def find(self, name: str) -> bytes | None:
        self.prune()
        if parse_created_at(name) is not None:
            return self._read_record(name)
        for own, summary in self._iterate_summaries():
            if summary["request_id"] == name:
                return self._read_record(own)
        return None

    def prune(self) -> None:
        """Let go what is too old or too much, and what a dead worker has not written to its end."""
        names, now = self._list_names(), self._now()
        kept = names[: self._limits.max_records]
        gone = names[self._limits.max_records :]
        gone += [
            name for name in kept if (parse_created_at(name) or 0) < now - self._limits.max_age
        ]
        for path in map(self._make_path, gone):
            path.unlink(missing_ok=True)
        for path in self._directory.glob(f"ex_*{PARTIAL_SUFFIX}"):
            if (parse_created_at(path.name.partition(".")[0]) or now) < now - MAX_WRITE_SECONDS:
                path.unlink(missing_ok=True)

    def _list_names(self) -> list[str]:
        """The newest first."""
        names = (path.stem for path in self._directory.glob("ex_*.json"))
        return sorted((name for name in names if parse_created_at(name) is not None), reverse=True)

    def _iterate_summaries(self) -> Iterator[tuple[str, Json]]:
        for name in self._list_names():
            with suppress(OSError, ValueError), self._make_path(name).open("rb") as file:
                yield name, parse_summary(file.readline())

    def _read_record(self, name: str) -> bytes | None:
        try:
            return self._make_path(name).read_bytes()
        except FileNotFoundError:
            return None

    def _make_path(self, name: str) -> Path:
        return self._directory / f"{name}.json"
