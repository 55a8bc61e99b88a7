"""Exchanges that have not ended: those of this worker, and files about them for other workers.

A request itself only enters and leaves a register in memory. With a capture directory,
`RunningExchanges.publish` runs about twice a second and keeps one small file for each exchange that
has been running for `MIN_PUBLISHED_SECONDS`. It removes the file when the exchange ends. While the
page of a running exchange is open, the page leaves a marker beside that file, and the worker that
serves the exchange writes its partial record. Nothing is done per chunk of an answer.

    running/NAME.json    the summary; written again when it changes, touched while it runs
    running/NAME.watch   the marker: a page of the exchange is open
    running/NAME.record  the partial record
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import orjson

from forwarder.context.capture_recorder import Recorder
from forwarder.context.redaction import Redactor
from forwarder.context.request_context import RequestContext
from forwarder.core.blocking_work import BlockingPool
from forwarder.core.types import Json
from forwarder.observability.capture.record import (
    RECORD_HEAD,
    encode_record,
    encode_running_summary,
)
from forwarder.observability.capture.stores import (
    generate_name,
    parse_created_at,
    write_private_file,
)

log = logging.getLogger("forwarder.capture")

MIN_PUBLISHED_SECONDS = 0.4
"""Exchanges that end earlier have no file."""

TOUCH_SECONDS = 5.0
"""Interval at which a worker touches the files of its exchanges."""

STALE_SECONDS = 20.0
"""A worker counts as dead if its file is older. A blocked worker touches its file again later."""

WATCH_SECONDS = 10.0
"""Older markers have no effect. Pages renew their marker every few seconds."""

RECORD_SECONDS = 1.0
"""Minimum time between two partial records of an exchange."""

MAX_RECORD_SHARE = 0.1
"""Maximum share of a worker's time for the partial records of one exchange: long records are
written less often.
"""

MAX_WATCHED = 8
"""Exchanges of a worker with partial records."""

MAX_LISTED = 500
"""Running exchanges that are listed; the newest ones."""

SUMMARY, MARKER, RECORD = ".json", ".watch", ".record"


class RunningExchange(NamedTuple):
    """An exchange of this worker. Its record needs a copy of the recorder (`copy_recorder`)."""

    name: str
    context: RequestContext
    recorder: Recorder
    seconds: float

    def encode_summary(self, redactor: Redactor) -> bytes:
        """Encode the redacted summary."""
        return encode_running_summary(
            self.name, self.recorder, self.context, self.seconds, redactor
        )

    def encode_record(self, redactor: Redactor, limit: int) -> bytes:
        """Encode the redacted record of at most ``limit`` bytes."""
        return encode_record(self.name, self.recorder, self.context, self.seconds, redactor, limit)


class PublishedFile(NamedTuple):
    """The content of the file of an exchange, and the time when it was written or touched."""

    key: int
    state: tuple[object, ...]
    written_at: float


class RunningExchanges:
    """The exchanges of this worker that have not ended, and those that other workers publish.

    ``make_redactor`` makes the redactor of one record and ``max_bytes`` limits its size. The
    caller's thread is the one in which requests run: only encoding and files go to another thread.
    """

    def __init__(
        self, folder: Path | None, make_redactor: Callable[[], Redactor], max_bytes: int
    ) -> None:
        self._files = RunningFiles(folder) if folder is not None else None
        self._make_redactor = make_redactor
        self._max_bytes = max_bytes
        # Weak, because work that is refused before it starts never closes its context.
        self._contexts: WeakValueDictionary[int, RequestContext] = WeakValueDictionary()
        self._published: dict[str, PublishedFile] = {}
        self._next_records: dict[str, float] = {}
        self._pool = BlockingPool(1)

    # -- register -------------------------------------------------------------------------------

    def add(self, context: RequestContext) -> None:
        """Register a request that has begun."""
        self._contexts[id(context)] = context

    def remove(self, context: RequestContext) -> None:
        """Unregister a request that has ended."""
        self._contexts.pop(id(context), None)

    def remove_file(self, recorder: Recorder) -> None:
        """Remove the file of an exchange after its record was stored. Blocks on the disk."""
        if recorder.name in self._published:
            self._remove_file(recorder.name)

    def list_own(self, min_seconds: float = 0.0) -> list[RunningExchange]:
        """Return this worker's exchanges that have a request body, without copies of recorders."""
        found = []
        for reference in self._contexts.valuerefs():
            context = reference()
            recorder = context.recorder if context is not None else None
            if context is None or recorder is None or recorder.body is None:
                continue
            seconds = time.monotonic() - context.started_at
            if seconds >= min_seconds:
                found.append(RunningExchange(name_record(recorder), context, recorder, seconds))
        return found

    # -- for pages ------------------------------------------------------------------------------

    def list_summaries(self) -> list[Json]:
        """Return the summaries of running exchanges, the newest first."""
        if self._files is not None:
            return self._pool.run(self._files.list_summaries)
        own = sorted(self.list_own(), key=lambda each: each.name, reverse=True)
        redactor = self._make_redactor()
        return [orjson.loads(each.encode_summary(redactor)) for each in own[:MAX_LISTED]]

    def find_record(self, name: str) -> bytes | None:
        """Return the partial record of a running exchange, or None if it is not running.

        The record of another worker's exchange has only a summary until that worker has seen the
        marker.
        """
        for each in self.list_own():
            if each.name == name:
                work = partial(
                    copy_recorder(each).encode_record, self._make_redactor(), self._max_bytes
                )
                return self._pool.run(work)
        if self._files is None or parse_created_at(name) is None:
            return None
        return self._pool.run(partial(self._files.read_record, name))

    # -- files ----------------------------------------------------------------------------------

    def publish(self) -> None:
        """Update the files of this worker's exchanges (see the module docstring)."""
        if self._files is None:
            return
        own = self.list_own(MIN_PUBLISHED_SECONDS)
        if not own and not self._published:
            return
        now = time.monotonic()
        changed = [each for each in own if self._is_outdated(each, now)]
        redactor = self._make_redactor() if changed else None
        watched = self._pool.run(partial(self._update_files, changed, redactor, now))
        for each in [each for each in own if each.name in watched][:MAX_WATCHED]:
            if now >= self._next_records.get(each.name, now):
                work = partial(self._write_record, copy_recorder(each), self._make_redactor())
                with log_failure():
                    self._pool.run(work)

    def prune(self) -> None:
        """Remove the files of workers that have died."""
        if self._files is not None:
            self._pool.run(self._files.prune)

    def close(self) -> None:
        """Remove the files of this worker, and end the thread that writes them."""
        for name in list(self._published):
            self._remove_file(name)
        self._pool.close()

    def _is_outdated(self, each: RunningExchange, now: float) -> bool:
        published = self._published.get(each.name)
        return (
            published is None
            or published.state != read_state(each.context)
            or published.written_at < now - TOUCH_SECONDS
        )

    def _update_files(
        self, changed: list[RunningExchange], redactor: Redactor | None, now: float
    ) -> set[str]:
        """Write or touch summaries, remove those of ended exchanges; return the watched ones."""
        assert self._files is not None
        for each in changed:
            state, key = read_state(each.context), id(each.context)
            before = self._published.get(each.name)
            self._published[each.name] = PublishedFile(key, state, now)
            if before is not None and before.state == state and self._files.touch(each.name):
                continue
            assert redactor is not None
            with log_failure():
                self._files.write(each.name + SUMMARY, each.encode_summary(redactor))
        for name, published in list(self._published.items()):
            if published.key not in self._contexts:
                self._remove_file(name)
        return self._files.list_watched()

    def _write_record(self, each: RunningExchange, redactor: Redactor) -> None:
        assert self._files is not None
        started_at = time.monotonic()
        try:
            encoded = each.encode_record(redactor, self._max_bytes)
            self._files.write(each.name + RECORD, encoded)
        finally:
            ended_at = time.monotonic()
            pause = max(RECORD_SECONDS, (ended_at - started_at) / MAX_RECORD_SHARE)
            self._next_records[each.name] = ended_at + pause
        if each.name not in self._published:  # it has ended meanwhile
            self._remove_file(each.name)

    def _remove_file(self, name: str) -> None:
        self._published.pop(name, None)
        self._next_records.pop(name, None)
        if self._files is not None:
            self._files.remove(name)


def name_record(recorder: Recorder) -> str:
    """Return the record's name, which the first call generates. Names sort by start time."""
    if recorder.name is None:
        recorder.name = generate_name(recorder.time)
    return recorder.name


@contextmanager
def log_failure() -> Iterator[None]:
    """Log an error with one exchange, so that the others are published."""
    try:
        yield
    except Exception:
        log.exception(
            "could not publish a running exchange", extra={"event": "capture_running_failed"}
        )


def copy_recorder(each: RunningExchange) -> RunningExchange:
    return each._replace(recorder=each.recorder.copy_partial())


def read_state(context: RequestContext) -> tuple[object, ...]:
    """Return the fields of a summary that may change while the exchange runs."""
    return (context.route, context.model, context.upstream)


class RunningFiles:
    """The folder with the running exchanges of all workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, file_name: str, content: bytes) -> None:
        """Write a file of an exchange; a failure is logged."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private_file(self._folder / file_name, content)
        except OSError as error:
            log.warning(
                "could not write a running exchange: %s",
                error,
                extra={"event": "capture_running_failed"},
            )

    def touch(self, name: str) -> bool:
        """Mark the summary of an exchange as up to date; False without a summary."""
        try:
            os.utime(self._folder / (name + SUMMARY))
        except OSError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove all files of an exchange."""
        for suffix in (SUMMARY, MARKER, RECORD):
            with suppress(OSError):
                (self._folder / (name + suffix)).unlink(missing_ok=True)

    def list_summaries(self) -> list[Json]:
        """Return the summaries of the exchanges of all living workers, the newest first."""
        names = sorted(self._list_fresh(SUMMARY, STALE_SECONDS), reverse=True)
        found = []
        for name in names[:MAX_LISTED]:
            with suppress(OSError, ValueError):
                found.append(orjson.loads((self._folder / (name + SUMMARY)).read_bytes()))
        return found

    def list_watched(self) -> set[str]:
        """Return the names of the exchanges with an open page."""
        return self._list_fresh(MARKER, WATCH_SECONDS)

    def read_record(self, name: str) -> bytes | None:
        """Return the latest partial record, or one that has only a summary; leave a marker."""
        try:
            summary = (self._folder / (name + SUMMARY)).read_bytes()
            (self._folder / (name + MARKER)).touch(mode=0o600)
        except OSError:
            return None
        with suppress(OSError):
            return (self._folder / (name + RECORD)).read_bytes()
        return RECORD_HEAD + summary + b',\n"client":{"request":{}},"upstream":[]}\n'

    def prune(self) -> None:
        """Remove files of dead workers, and the folder if it is empty."""
        oldest = time.time() - STALE_SECONDS
        for entry in self._scan():
            with suppress(OSError):
                is_own = parse_created_at(entry.name.partition(".")[0]) is not None
                if is_own and entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)
        with suppress(OSError):
            self._folder.rmdir()

    def _list_fresh(self, suffix: str, max_age: float) -> set[str]:
        oldest = time.time() - max_age
        found = set()
        for entry in self._scan():
            with suppress(OSError):
                name = entry.name.removesuffix(suffix)
                is_own = entry.name.endswith(suffix) and parse_created_at(name) is not None
                if is_own and entry.stat().st_mtime >= oldest:
                    found.add(name)
        return found

    def _scan(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._folder) as entries:
                return list(entries)
        except OSError:
            return []
