"""The database: SQLite beside the loop, PostgreSQL on it.

SQLite blocks, so its work is done in native threads: a few that read, and one that writes, since
SQLite has one writer anyway; writers of other processes are waited for by its busy time-out.
PostgreSQL's driver waits in ``select``, which gevent has replaced, so it needs no threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from forwarder.errors import StoreUnavailable
from forwarder.network.aside import Aside, pause
from forwarder.store.grouping import Group, Work
from forwarder.store.migrate import migrate
from forwarder.store.statements import Statement

log = logging.getLogger("forwarder.store")

T = TypeVar("T")

_READERS = 4
_PATIENCE = 30.0
"""Seconds to wait for other writers."""

_LOCK = 0x666F7277
"""The number of the advisory lock under which a PostgreSQL database is migrated."""

_IMMEDIATE = "forwarder_immediate"

_TO_READ, _TO_WRITE = Statement("BEGIN"), Statement("BEGIN IMMEDIATE")
_CHECKPOINT = Statement("PRAGMA wal_checkpoint(TRUNCATE)")
_VACUUM = "PRAGMA incremental_vacuum(20000)"


class Database:
    """A database whose tables are there; ``prepare`` makes them, and is repeated until it can."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self._ready = False
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Make or migrate the tables; raises StoreUnavailable."""
        with self._preparing:
            if not self._ready:
                self._guarded(self._prepare)
                self._ready = True

    def read(self, work: Work[T]) -> T:
        """What a work gives that changes nothing."""
        return self._done(lambda: self._read(work))

    def write(self, work: Work[T]) -> T:
        """What a work gives that is one transaction; it is on disk when this returns."""
        return self._done(lambda: self._write(work))

    def _done(self, work: Callable[[], T]) -> T:
        if not self._ready:
            self.prepare()
        return self._guarded(work)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (SQLAlchemyError, OSError) as error:
            log.error("the store failed: %s", _said(error))
            raise StoreUnavailable from None

    def _prepare(self) -> None:
        raise NotImplementedError

    def _read(self, work: Work[T]) -> T:
        raise NotImplementedError

    def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    def tidy(self) -> None:
        """Give back the room of what was deleted."""

    def scrub(self) -> None:
        """Leave nothing of what was overwritten; a server sees to it by itself, in its time."""

    def close(self) -> None:
        """Let go of every connection; what is done for it now and then ends."""
        self.closed.set()


class Sqlite(Database):
    """A file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        url = sa.URL.create("sqlite", database=str(path))
        # Connections go from thread to thread, but are in one at a time.
        given = {"check_same_thread": False, "timeout": _PATIENCE}
        self._reading = sa.create_engine(url, poolclass=NullPool, connect_args=given)
        sa.event.listen(self._reading, "connect", _configure)
        sa.event.listen(self._reading, "begin", _begin)
        self._writing = self._reading.execution_options(**{_IMMEDIATE: True})
        self._readers = Aside(_READERS)
        self._group = Group(lambda work: self._in(self._writing, work))
        self._kept: dict[sa.Engine, deque[sa.Connection]] = {
            self._reading: deque(),
            self._writing: deque(),
        }

    def _read(self, work: Work[T]) -> T:
        return self._readers.do(lambda: self._in(self._reading, work))

    def _write(self, work: Work[T]) -> T:
        return self._group.do(work)

    def _in(self, engine: sa.Engine, work: Work[T]) -> T:
        """The work in one transaction, on a connection that nobody else uses."""
        kept = self._kept[engine]
        try:
            connection = kept.pop()
        except IndexError:
            connection = engine.connect()
        try:
            with connection.begin():
                done = work(connection)
        except DBAPIError:
            connection.close()
            raise
        except BaseException:
            kept.append(connection)
            raise
        kept.append(connection)
        return done

    def _prepare(self) -> None:
        self._group.alone(self._make)

    def _make(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing.connect() as connection:
            plain: Any = connection.connection.driver_connection
            plain.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts in an empty file alone
            _into_wal(plain)
        with self._writing.begin() as connection:
            migrate(connection)

    def tidy(self) -> None:
        """Give the pages that are free back to the file system."""

        def vacuum() -> None:
            with self._reading.connect() as connection:
                plain: Any = connection.connection.driver_connection
                try:
                    plain.executescript(_VACUUM)  # execute() frees one page
                except plain.Error as error:
                    raise DBAPIError(_VACUUM, None, error) from error

        self._guarded(lambda: self._group.alone(vacuum))

    def scrub(self) -> None:
        """Leave nothing of what was overwritten or deleted in the log beside the file either."""

        def checkpoint() -> None:
            with self._reading.connect() as connection:
                [(busy, *_)] = _CHECKPOINT.rows(connection, {})
            if busy:
                log.warning("%s-wal is in use, and still has what was overwritten", self.path)

        self._guarded(lambda: self._group.alone(checkpoint))

    def close(self) -> None:
        super().close()
        for kept in self._kept.values():
            with suppress(IndexError):
                while True:
                    kept.pop().close()


class Postgres(Database):
    """A server."""

    def __init__(self, url: sa.URL) -> None:
        super().__init__()
        self._engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=8,
            max_overflow=24,
            pool_timeout=_PATIENCE,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10},
        )

    def _read(self, work: Work[T]) -> T:
        with self._engine.connect() as connection:
            return work(connection)

    def _write(self, work: Work[T]) -> T:
        with self._engine.begin() as connection:
            return work(connection)

    def _prepare(self) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            migrate(connection)

    def close(self) -> None:
        super().close()
        self._engine.dispose()


def _configure(connection: Any, record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin
    connection.execute("PRAGMA foreign_keys=ON")
    # What is deleted or sealed anew is gone from the file, whichever way SQLite was built.
    connection.execute("PRAGMA secure_delete=ON")
    # In WAL mode a commit survives the death of every process; the machine's own may cost the last.
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get(_IMMEDIATE)
    (_TO_WRITE if immediate else _TO_READ).run(connection, {})


def _into_wal(connection: Any) -> None:
    """The change of mode does not wait for others that are about it too; so that is done here."""
    import sqlite3

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            pause(0.02)


def _said(error: Exception) -> str:
    """What the driver says; the statement and its values are nobody's business."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {cause}"
