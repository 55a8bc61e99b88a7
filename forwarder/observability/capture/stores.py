"""Stores for capture records, limited in number and age.

The memory store belongs to one worker and is lost when the worker stops. The directory store is
shared by all workers and survives restarts. It writes each record atomically to a file that only
its owner can read.
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
"""File name suffix of a record that is still being written."""

PRUNE_SLACK = 500
"""A worker prunes after each ``max_records // PRUNE_SLACK + 1`` writes, since pruning lists the
whole directory.
"""

MAX_WRITE_SECONDS = 60.0
"""Age at which a partial file is considered abandoned by a dead worker."""


def generate_name(now: float) -> str:
    """Generate a record name; names sort by time (``now``, Unix seconds)."""
    return f"ex_{int(now * 1000):012x}{os.urandom(6).hex()}"


def parse_created_at(name: str) -> float | None:
    """Return the creation time in a record name, in Unix seconds, or ``None`` if invalid."""
    match = RECORD_NAME.fullmatch(name)
    return int(match[1], 16) / 1000 if match else None


class CaptureLimits(NamedTuple):
    """Maximum number of records, and their maximum age in seconds."""

    max_records: int
    max_age: float


class CaptureStore(Protocol):
    """Stores encoded records by name. ``is_shared`` is true if all workers see the same records."""

    is_shared: bool

    def put(self, name: str, record: bytes) -> None:
        """Store a record; removes the oldest ones beyond the limit."""

    def list_newest(self, limit: int) -> list[Json]:
        """Return at most ``limit`` summaries, the newest first."""

    def find(self, name: str) -> bytes | None:
        """Return the record with this name, or the newest with this request id, or ``None``."""

    def prune(self) -> None:
        """Remove expired records."""


class StoredRecord(NamedTuple):
    name: str
    summary: Json
    compressed: bytes


class MemoryCaptureStore:
    """Stores compressed records in the memory of this process."""

    is_shared = False

    def __init__(self, limits: CaptureLimits, now: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._now = now
        self._records: deque[StoredRecord] = deque(maxlen=limits.max_records)

    def put(self, name: str, record: bytes) -> None:
        self._records.append(StoredRecord(name, parse_summary(record), zlib.compress(record, 1)))
        self.prune()

    def list_newest(self, limit: int) -> list[Json]:
        self.prune()
        return [record.summary for record in reversed(list(self._records))][:limit]

    def find(self, name: str) -> bytes | None:
        self.prune()
        for record in reversed(list(self._records)):
            if name in (record.name, record.summary["request_id"]):
                return zlib.decompress(record.compressed)
        return None

    def prune(self) -> None:
        oldest = self._now() - self._limits.max_age
        with suppress(IndexError):  # another thread may have removed the last record
            while (parse_created_at(self._records[0].name) or 0) < oldest:
                self._records.popleft()


class FileCaptureStore:
    """Stores each record as a file in a directory, which is created on the first write."""

    is_shared = True

    def __init__(
        self, directory: Path, limits: CaptureLimits, now: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._put_counter = itertools.count()
        self._limits = limits
        self._now = now

    def put(self, name: str, record: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._make_path(name)
        partial_path = path.with_name(path.name + PARTIAL_SUFFIX)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(partial_path, flags, 0o600), "wb") as file:
            file.write(record)
        partial_path.replace(path)
        if next(self._put_counter) % (self._limits.max_records // PRUNE_SLACK + 1) == 0:
            self.prune()

    def list_newest(self, limit: int) -> list[Json]:
        self.prune()
        return [summary for _, summary in itertools.islice(self._iterate_summaries(), limit)]

    def find(self, name: str) -> bytes | None:
        self.prune()
        if parse_created_at(name) is not None:
            return self._read_record(name)
        for record_name, summary in self._iterate_summaries():
            if summary["request_id"] == name:
                return self._read_record(record_name)
        return None

    def prune(self) -> None:
        """Remove expired and excess records, and abandoned partial files."""
        now = self._now()
        for index, name in enumerate(self._list_names()):
            is_expired = (parse_created_at(name) or 0) < now - self._limits.max_age
            if is_expired or index >= self._limits.max_records:
                self._make_path(name).unlink(missing_ok=True)
        for path in self._directory.glob(f"ex_*{PARTIAL_SUFFIX}"):
            if (parse_created_at(path.name.partition(".")[0]) or now) < now - MAX_WRITE_SECONDS:
                path.unlink(missing_ok=True)

    def _list_names(self) -> list[str]:
        """List the names of all records, the newest first."""
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
