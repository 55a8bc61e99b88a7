"""How a worker learns that others have changed what it has a copy of, at hardly any price.

``read_version`` is asked for each request, and is another one after each change; ``publish_change`` is called when a
change is committed.  When it returns, no worker goes on with what was before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from forwarder.core.backend_breaker import MAX_WAIT_SECONDS, SharedTask
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.database import Database, SqliteDatabase

CHANGE_LEASE_SECONDS = 0.1
"""Seconds for which a worker believes what a server has told it."""

FILE_MODE = 0o600


class ChangeNotifier(Protocol):
    """Tells changes on."""

    def read_version(self) -> object:
        """What the last change was."""

    def publish_change(self) -> None:
        """Something was changed and committed."""


def make_change_notifier(
    database: Database, generation: Callable[[sa.Connection], int]
) -> ChangeNotifier:
    """Those of a database; ``generation`` gives the number of changes where it has to be asked."""
    if isinstance(database, SqliteDatabase):
        return FileChangeNotifier(database.path.with_name(f"{database.path.name}.models"))
    return PollingChangeNotifier(lambda: database.read(generation))


class FileChangeNotifier:
    """A file beside the database, one byte longer with each change: no time stamp is fine enough.

    Looking at it costs about a microsecond.  Whoever dies between its commit and its byte has not
    answered its client, which will ask again.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def read_version(self) -> object:
        """The length of the file, and which one it is."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size

    def publish_change(self) -> None:
        """Make it longer."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


class PollingChangeNotifier:
    """A number that the server is asked for at most every ``lease`` seconds.

    Who has changed something waits so long: then everybody has asked again.  The server is asked
    beside the requests; they wait for its answer a moment, and not at all while it hangs.
    """

    def __init__(
        self,
        ask: Callable[[], int],
        lease: float = CHANGE_LEASE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_number = ask
        self._lease = lease
        self._now = now
        self._refresh_task = SharedTask(self._refresh_number)
        self._valid_until = float("-inf")
        self._is_failing = False
        self._number: int | None = None

    def read_version(self) -> object:
        """The number; the last one known while the server does not answer."""
        if self._now() >= self._valid_until:
            self._refresh_task.run(0.0 if self._is_failing else MAX_WAIT_SECONDS)
        return self._number

    def publish_change(self) -> None:
        """Wait until nobody believes the number of before."""
        self._valid_until = float("-inf")
        time.sleep(self._lease)

    def _refresh_number(self) -> None:
        asked = self._now()  # it may be changed as soon as the server has read it
        try:
            self._number = self._read_number()
        except StoreUnavailable:
            self._is_failing = True
        else:
            self._is_failing = False
        self._valid_until = asked + self._lease
