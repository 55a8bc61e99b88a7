"""How a worker learns that others have changed what it has a copy of, at hardly any price.

``mark`` is asked for each request, and is another one after each change; ``tell`` is called when a
change is committed.  When it returns, no worker goes on with what was before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from forwarder.core.backend_breaker import MAX_WAIT, SharedTask
from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.database import Database, Sqlite

LEASE = 0.1
"""Seconds for which a worker believes what a server has told it."""

_MODE = 0o600


class Changes(Protocol):
    """Tells changes on."""

    def mark(self) -> object:
        """What the last change was."""

    def tell(self) -> None:
        """Something was changed and committed."""


def changes_of(database: Database, generation: Callable[[sa.Connection], int]) -> Changes:
    """Those of a database; ``generation`` gives the number of changes where it has to be asked."""
    if isinstance(database, Sqlite):
        return FileChanges(database.path.with_name(f"{database.path.name}.models"))
    return AskedChanges(lambda: database.read(generation))


class FileChanges:
    """A file beside the database, one byte longer with each change: no time stamp is fine enough.

    Looking at it costs about a microsecond.  Whoever dies between its commit and its byte has not
    answered its client, which will ask again.
    """

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def mark(self) -> object:
        """The length of the file, and which one it is."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_size

    def tell(self) -> None:
        """Make it longer."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _MODE)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)


class AskedChanges:
    """A number that the server is asked for at most every ``lease`` seconds.

    Who has changed something waits so long: then everybody has asked again.  The server is asked
    beside the requests; they wait for its answer a moment, and not at all while it hangs.
    """

    def __init__(
        self,
        ask: Callable[[], int],
        lease: float = LEASE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._lease = lease
        self._now = now
        self._renewal = SharedTask(self._renew)
        self._until = float("-inf")
        self._is_failing = False
        self._number: int | None = None

    def mark(self) -> object:
        """The number; the last one known while the server does not answer."""
        if self._now() >= self._until:
            self._renewal.run(0.0 if self._is_failing else MAX_WAIT)
        return self._number

    def tell(self) -> None:
        """Wait until nobody believes the number of before."""
        self._until = float("-inf")
        time.sleep(self._lease)

    def _renew(self) -> None:
        asked = self._now()  # it may be changed as soon as the server has read it
        try:
            self._number = self._ask()
        except StoreUnavailable:
            self._is_failing = True
        else:
            self._is_failing = False
        self._until = asked + self._lease
