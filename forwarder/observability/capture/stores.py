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
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from forwarder.core.types import Json
from forwarder.observability.capture.record import parse_summary

RECORD_NAME = re.compile(r"ex_([0-9a-f]{12})[0-9a-f]{12}")
RECORD_SUFFIX = ".json"
RECORD_FILE = re.compile(r"(ex_[0-9a-f]{24})\.json")

CLOCK_RESOLUTION_NS = 100_000_000
"""Resolution of the times at which directories change; some file systems round them."""

PARTIAL_SUFFIX = ".part"
"""File name suffix of a record that is still being written."""

RUNNING_FOLDER = "running"
"""Subfolder for exchanges that have not ended (see `running.RunningFiles`)."""

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


class CaptureStore(ABC):
    """Stores encoded records by name. ``is_shared`` is true if all workers see the same records.

    ``running_folder`` is the folder with the running exchanges of all workers, None if workers do
    not see each other's exchanges.
    """

    is_shared: bool
    running_folder: Path | None

    @abstractmethod
    def put(self, name: str, record: bytes) -> None:
        """Store a record; removes the oldest ones beyond the limit."""

    @abstractmethod
    def list_names(self) -> list[str]:
        """Return the names of all records, the newest first."""

    @abstractmethod
    def read_summary(self, name: str) -> Json | None:
        """Return the summary of a record, or ``None`` if there is no such record."""

    @abstractmethod
    def find(self, name: str) -> bytes | None:
        """Return the record with this name, or the newest with this request id, or ``None``."""

    @abstractmethod
    def prune(self) -> None:
        """Remove expired records."""

    def iterate_summaries(self) -> Iterator[Json]:
        """Yield the summaries, the newest first; each is read when it is needed."""
        for name in self.list_names():
            summary = self.read_summary(name)
            if summary is not None:
                yield summary

    def list_newest(self, limit: int) -> list[Json]:
        """Return at most ``limit`` summaries, the newest first."""
        return list(itertools.islice(self.iterate_summaries(), limit))


class StoredRecord(NamedTuple):
    summary: Json
    compressed: bytes


class MemoryCaptureStore(CaptureStore):
    """Stores compressed records in the memory of this process."""

    is_shared = False
    running_folder = None

    def __init__(self, limits: CaptureLimits, now: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._now = now
        self._records: dict[str, StoredRecord] = {}
        self._names: list[str] = []  # sorted; a copy is made in one step, for other threads

    def put(self, name: str, record: bytes) -> None:
        self._records[name] = StoredRecord(parse_summary(record), zlib.compress(record, 1))
        insort(self._names, name)
        self.prune()

    def list_names(self) -> list[str]:
        return keep_within_limits(self._names[::-1], self._limits, self._now())

    def read_summary(self, name: str) -> Json | None:
        record = self._records.get(name)
        return None if record is None else record.summary

    def find(self, name: str) -> bytes | None:
        for each in self.list_names():
            record = self._records.get(each)
            if record is not None and name in (each, record.summary["request_id"]):
                return zlib.decompress(record.compressed)
        return None

    def prune(self) -> None:
        excess = self._names[: len(self._names) - len(self.list_names())]
        del self._names[: len(excess)]
        for name in excess:
            self._records.pop(name, None)


class Listing(NamedTuple):
    """The names of the records in a directory that was changed at this time."""

    changed_at: int
    names: list[str]


class FileCaptureStore(CaptureStore):
    """Stores each record as a file in a directory, which is created on the first write."""

    is_shared = True

    def __init__(
        self, directory: Path, limits: CaptureLimits, now: Callable[[], float] = time.time
    ) -> None:
        self.running_folder = directory / RUNNING_FOLDER
        self._directory = directory
        self._put_counter = itertools.count()
        self._listed: Listing | None = None
        self._limits = limits
        self._now = now

    def put(self, name: str, record: bytes) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private_file(self._make_path(name), record)
        if next(self._put_counter) % (self._limits.max_records // PRUNE_SLACK + 1) == 0:
            self.prune()

    def list_names(self) -> list[str]:
        return keep_within_limits(self._list_all_names(), self._limits, self._now())

    def read_summary(self, name: str) -> Json | None:
        with suppress(OSError, ValueError), self._make_path(name).open("rb") as file:
            return parse_summary(file.readline())
        return None

    def find(self, name: str) -> bytes | None:
        created_at = parse_created_at(name)
        if created_at is not None:
            is_expired = created_at < self._now() - self._limits.max_age
            return None if is_expired else self._read_record(name)
        for summary in self.iterate_summaries():
            if summary["request_id"] == name:
                return self._read_record(summary["id"])
        return None

    def prune(self) -> None:
        """Remove expired and excess records, and abandoned partial files."""
        now = self._now()
        names = self._list_all_names()
        for name in names[len(keep_within_limits(names, self._limits, now)) :]:
            self._make_path(name).unlink(missing_ok=True)
        for path in self._directory.glob(f"ex_*{PARTIAL_SUFFIX}"):
            if (parse_created_at(path.name.partition(".")[0]) or now) < now - MAX_WRITE_SECONDS:
                path.unlink(missing_ok=True)

    def _list_all_names(self) -> list[str]:
        """List the directory, unless it has not changed since the last time."""
        try:
            changed_at = os.stat(self._directory).st_mtime_ns
            if self._listed is None or self._listed.changed_at != changed_at:
                found = (RECORD_FILE.fullmatch(name) for name in os.listdir(self._directory))
                names = sorted((match[1] for match in found if match), reverse=True)
                # A change within the resolution of the clock would not be noticed later.
                is_settled = time.time_ns() - changed_at > CLOCK_RESOLUTION_NS
                self._listed = Listing(changed_at if is_settled else -1, names)
        except OSError:
            return []
        return self._listed.names

    def _read_record(self, name: str) -> bytes | None:
        try:
            return self._make_path(name).read_bytes()
        except FileNotFoundError:
            return None

    def _make_path(self, name: str) -> Path:
        return self._directory / f"{name}{RECORD_SUFFIX}"


def keep_within_limits(names: list[str], limits: CaptureLimits, now: float) -> list[str]:
    """Return the names within the limits; ``names`` are sorted from new to old."""
    oldest = now - limits.max_age
    count = bisect_left(names, True, key=lambda name: (parse_created_at(name) or 0) < oldest)
    return names[: min(count, limits.max_records)]


def write_private_file(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, so that readers see all of it or nothing."""
    partial_path = path.with_name(path.name + PARTIAL_SUFFIX)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with open(os.open(partial_path, flags, 0o600), "wb") as file:
        file.write(content)
    partial_path.replace(path)
