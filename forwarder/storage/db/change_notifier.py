"""Cheap detection of changes by other workers, for data that each worker caches.

``read_version`` is called for each request and returns a different value after each change, at the
latest after a short lease. ``publish_change`` is called after a change is committed. It waits for
the leases, so no worker uses the previous data when it returns.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from forwarder.core.errors import StoreUnavailable
from forwarder.core.storage_breaker import MAX_WAIT_SECONDS, SharedTask
from forwarder.storage.db.database import Database, SqliteDatabase
from forwarder.storage.db.tables import generations

log = logging.getLogger("forwarder.store")

CHANGE_LEASE_SECONDS = 0.1
"""Seconds for which a version read from a database server is considered current."""

FILE_LEASE_SECONDS = 0.005
"""Seconds for which a version read from a file is considered current. A request reads versions
several times, and each read of a file is a system call."""

FILE_MODE = 0o600


class ChangeNotifier(Protocol):
    """Publishes changes to other workers."""

    def read_version(self) -> object:
        """Return a value that differs after each change."""

    def publish_change(self) -> None:
        """Announce a committed change."""

    def is_current(self) -> bool:
        """Return False if the last version may be outdated: the database did not answer in time."""

    def may_have_changes(self) -> bool:
        """Return False if it is certain, without a query, that no change was ever published."""


def make_change_notifier(
    database: Database,
    name: str,
    read_generation: Callable[[], int],
    max_wait: float = MAX_WAIT_SECONDS,
) -> ChangeNotifier:
    """Return the notifier for the data ``name``; ``read_generation`` returns its change counter.

    ``max_wait`` is the time in seconds for which a request waits for it.
    """
    if isinstance(database, SqliteDatabase):
        return FileChangeNotifier(database.path.with_name(f"{database.path.name}.{name}"))
    return PollingChangeNotifier(read_generation, max_wait=max_wait)


def read_generation(connection: sa.Connection, name: str) -> int:
    """Return the number of changes of the data ``name``."""
    number = sa.select(generations.c.number).where(generations.c.name == name)
    return connection.scalar(number) or 0


def increment_generation(connection: sa.Connection, name: str) -> None:
    """Increment the change counter of the data ``name``.

    Its row stays locked until the transaction ends, so concurrent writers of this data wait.
    """
    increment = sa.update(generations).where(generations.c.name == name)
    if not connection.execute(increment.values(number=generations.c.number + 1)).rowcount:
        connection.execute(sa.insert(generations).values(name=name, number=1))


class FileChangeNotifier:
    """A file next to the database that grows by one byte per change. Timestamps are too coarse.

    The file is read at most once per lease, and `publish_change` waits for one lease. A worker that
    dies between commit and write has not answered its client, which will retry.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._path = str(path)
        self._now = now
        self._lease: tuple[object, float] = (None, float("-inf"))  # the version and its end

    def read_version(self) -> object:
        """Return the inode and the size of the file, at most `FILE_LEASE_SECONDS` old."""
        called_at = self._now()
        version, valid_until = self._lease
        if called_at >= valid_until:
            version = self._read_file()
            self._lease = version, called_at + FILE_LEASE_SECONDS
        return version

    def _read_file(self) -> object:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_size

    def publish_change(self) -> None:
        """Append a byte to the file, or replace it if another user, such as root, made it.

        Waits until the leases of all workers on the previous version have expired.
        """
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        except PermissionError:
            descriptor, name = tempfile.mkstemp(dir=Path(self._path).parent)
            os.replace(name, self._path)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
        self._lease = None, float("-inf")
        time.sleep(FILE_LEASE_SECONDS)

    def is_current(self) -> bool:
        return True

    def may_have_changes(self) -> bool:
        """Return whether the file exists, or may exist."""
        try:
            return Path(self._path).exists()
        except OSError:  # for example, the folder is not readable
            return True


class PollingChangeNotifier:
    """A change counter in the database server, read at most once per ``lease`` seconds.

    `publish_change` waits for one lease, after which every worker has read the counter again. The
    counter is read in a separate greenlet. Requests wait for it, at most ``max_wait`` seconds, and
    not at all while the server fails.
    """

    def __init__(
        self,
        read_number: Callable[[], int],
        lease: float = CHANGE_LEASE_SECONDS,
        now: Callable[[], float] = time.monotonic,
        max_wait: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._read_number = read_number
        self._lease = lease
        self._now = now
        self._max_wait = max_wait
        self._is_in_time = False
        self._refresh_task = SharedTask(self._refresh_number)
        self._valid_until = float("-inf")
        self._is_failing = False
        self._number: int | None = None

    def read_version(self) -> object:
        """Return the counter; the last known value while the server does not respond."""
        called_at = self._now()
        is_in_time = True
        # The task may already run for an earlier request and miss a later change: then repeat it.
        while is_in_time and called_at >= self._valid_until:
            is_in_time = self._refresh_task.run(0.0 if self._is_failing else self._max_wait)
        self._is_in_time = is_in_time
        return self._number

    def is_current(self) -> bool:
        return self._is_in_time and not self._is_failing

    def publish_change(self) -> None:
        """Wait until the leases of all workers on the previous value have expired."""
        self._valid_until = float("-inf")
        time.sleep(self._lease)

    def may_have_changes(self) -> bool:
        """Return True: only the database knows."""
        return True

    def _refresh_number(self) -> None:
        asked_at = self._now()  # the value may be outdated as soon as the server has read it
        try:
            self._number, self._is_failing = self._read_number(), False
        except StoreUnavailable:  # the database logged it
            self._is_failing = True
        except Exception as error:  # otherwise `read_version` would repeat the read forever
            self._is_failing = True
            event = {"event": "change_number_unreadable"}
            log.error("could not read the number of changes", exc_info=error, extra=event)
        self._valid_until = asked_at + self._lease
