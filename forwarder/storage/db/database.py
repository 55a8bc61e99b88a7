"""The database: SQLite beside the loop, PostgreSQL on it.

SQLite blocks, so its work is done in native threads: a few that read, and one that writes, since
SQLite has one writer anyway; writers of other processes are waited for by its busy time-out.
PostgreSQL's driver waits in ``select``, which gevent has replaced, so it needs no threads.

A database that fails is not asked again by requests: they fail at once, until a trial beside them
has succeeded.  Reading and writing have a breaker each, since a full disk can still be read.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool

from forwarder.core.backend_breaker import BackendBreaker, SharedTask
from forwarder.core.concurrency import Aside, pause
from forwarder.core.errors import StoreUnavailable
from forwarder.core.ids import random_id
from forwarder.storage.db.compression import take_written
from forwarder.storage.db.migrate import is_current, migrate
from forwarder.storage.db.settling import Settling
from forwarder.storage.db.statements import Statement
from forwarder.storage.db.tables import chores
from forwarder.storage.db.write_batching import Group, Work

log = logging.getLogger("forwarder.store")

T = TypeVar("T")

_MODE = 0o600
_READERS = 4
_PATIENCE = 30.0
"""Seconds to wait for other writers."""

_TRIAL_PATIENCE = 5.0
"""Seconds to wait for other writers when a worker starts, and in a trial."""

_CHECK_SECONDS = 1.0
"""Seconds that ``GET /ready`` waits for the database."""

_FAILURES = (SQLAlchemyError, OSError, sqlite3.Error)

_LOCK = 0x666F7277
"""The number of the advisory lock under which a PostgreSQL database is migrated."""

_IMMEDIATE = "forwarder_immediate"

_TO_READ, _TO_WRITE = Statement("BEGIN"), Statement("BEGIN IMMEDIATE")
_CHECKPOINT = Statement("PRAGMA wal_checkpoint(TRUNCATE)")
_VACUUM = "PRAGMA incremental_vacuum(20000)"


class Database:
    """A database whose tables are there; ``prepare`` makes them, and is repeated until it can.

    ``recovered`` are called when it can be read or written again, before any request may.
    ``written`` counts the bytes that this process has stored since the last pruning.
    ``has_settled`` says whether leases that have run out may be judged.
    """

    kind = ""
    trial_bytes = 1
    """What a trial writes after a failure: on a full disk a few bytes may still find room."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.recovered: list[Callable[[], object]] = []
        self.written = 0
        self._ready = False
        self._preparing = threading.Lock()
        self.reading = BackendBreaker(
            self._try_to_read, self._note_reading, _reason, stop=self.closed
        )
        self.writing = BackendBreaker(
            partial(self._try_to_write, self.trial_bytes),
            self._note_writing,
            _reason,
            stop=self.closed,
        )
        probe = partial(_leave_nothing, size=self.trial_bytes)
        self._settling = Settling(lambda: self.write(probe))
        self.has_settled = self._settling.has_settled
        self._check = SharedTask(self._check_now)
        self._checked = float("-inf")

    def prepare(self) -> None:
        """Make or migrate the tables; raises StoreUnavailable."""
        with self._preparing:
            if not self._ready:
                self._guarded(self._prepare, self.reading, self.writing)
                self._ready = True

    def start(self) -> None:
        """Prepare it, and find out whether it can be written; raises StoreUnavailable."""
        self.prepare()
        self._run_trial(partial(self._try_to_write, self.trial_bytes), self.writing)

    def read(self, work: Work[T]) -> T:
        """What a work gives that changes nothing."""
        return self._done(lambda: self._read(work), self.reading)

    def write(self, work: Work[T]) -> T:
        """What a work gives that is one transaction; it is on disk when this returns."""
        try:
            return self._done(lambda: self._write(work), self.writing)
        except StoreUnavailable:
            self._settling.restart()
            raise

    def write_at_length(self, work: Work[T]) -> T:
        """The same for a work that may take as long as a migration: it has no time limit."""
        return self._done(lambda: self._write_at_length(work), self.writing)

    def error(self, max_age: float) -> str | None:
        """Why it cannot be used, as found out not more than so many seconds ago; None if it can."""
        is_old = time.monotonic() - self._checked > max_age
        if is_old and not self._failing() and not self._check.run(_CHECK_SECONDS):
            return f"No answer within {_CHECK_SECONDS:g} s."
        return self._failing()

    def _failing(self) -> str | None:
        return self.reading.error or self.writing.error

    def _done(self, work: Callable[[], T], breaker: BackendBreaker) -> T:
        if breaker.is_open:
            raise StoreUnavailable
        if not self._ready:
            self.prepare()
        return self._guarded(work, breaker)

    def _guarded(self, work: Callable[[], T], *breakers: BackendBreaker) -> T:
        try:
            return work()
        except _FAILURES as error:
            log.error("the store failed: %s", _said(error))
            self._trip(error, *breakers)
            raise StoreUnavailable from None

    def _trip(self, error: BaseException, *breakers: BackendBreaker) -> None:
        if isinstance(error, _FAILURES) and _is_outage(error):
            for breaker in breakers:
                breaker.trip(_reason(error))

    # -- trials ---------------------------------------------------------------------------------

    def _try_to_read(self) -> None:
        self._prepare_anew()
        self._read_trial(lambda c: c.execute(sa.select(chores.c.name)).all())

    def _try_to_write(self, size: int) -> None:
        self._prepare_anew()
        self._write_trial(partial(_leave_nothing, size=size))

    def _run_trial(self, trial: Callable[[], object], breaker: BackendBreaker) -> None:
        """Run a trial; whatever it fails with, the database does not work."""
        try:
            trial()
        except _FAILURES as error:
            log.error("the store failed: %s", _said(error))
            breaker.trip(_reason(error))
            raise StoreUnavailable from None

    def _prepare_anew(self) -> None:
        """Make tables that may be gone: somebody may have put another database in place."""
        with self._preparing:
            self._prepare()
            self._ready = True

    def _check_now(self) -> None:
        for breaker, trial in (
            (self.reading, self._try_to_read),
            (self.writing, partial(self._try_to_write, 1)),
        ):
            with suppress(StoreUnavailable):
                self._run_trial(trial, breaker)
        self._checked = time.monotonic()

    def _note_reading(self, error: str | None) -> None:
        if error is None:
            log.warning("the store answers again")
            self._tell_recovered()
        else:
            log.error("the store does not answer; requests that need it fail until it does")

    def _note_writing(self, error: str | None) -> None:
        if error is None:
            log.warning("the store can be written again")
            self._tell_recovered()
        else:
            log.error("the store cannot be written; requests that need that fail until it can")

    def _tell_recovered(self) -> None:
        for call in self.recovered:
            call()

    # -- what each kind of database does --------------------------------------------------------

    def _prepare(self) -> None:
        raise NotImplementedError

    def _read(self, work: Work[T]) -> T:
        raise NotImplementedError

    def _write(self, work: Work[T]) -> T:
        raise NotImplementedError

    def _write_at_length(self, work: Work[T]) -> T:
        return self._write(work)

    def _read_trial(self, work: Work[T]) -> T:
        raise NotImplementedError

    def _write_trial(self, work: Work[T]) -> T:
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

    kind = "sqlite"
    trial_bytes = 2**16

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._reading = _engine(path, _PATIENCE)
        self._writing = self._reading.execution_options(**{_IMMEDIATE: True})
        self._trying = _engine(path, _TRIAL_PATIENCE)
        self._trying_to_write = self._trying.execution_options(**{_IMMEDIATE: True})
        self._readers = Aside(_READERS)
        self._group = Group(self._transact, lambda error: self._trip(error, self.writing))
        self._kept: dict[sa.Engine, deque[sa.Connection]] = {
            self._reading: deque(),
            self._writing: deque(),
        }

    def _read(self, work: Work[T]) -> T:
        return self._readers.do(lambda: self._in(self._reading, work))

    def _write(self, work: Work[T]) -> T:
        return self._group.do(work)

    def _transact(self, work: Work[T]) -> T:
        if self.writing.is_open:  # it has failed while this work waited for its turn
            raise StoreUnavailable
        return self._in(self._writing, work)

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
                self.written += take_written(connection)
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
        _make_private(self.path)
        with self._trying.connect() as connection:
            plain: Any = connection.connection.driver_connection
            if plain.execute("PRAGMA page_count").fetchone() == (0,):
                plain.execute("PRAGMA auto_vacuum=INCREMENTAL")  # elsewhere it has no effect
            _into_wal(plain)
            with connection.begin():
                if is_current(connection):  # and nobody else has to be waited for
                    return
        with self._trying_to_write.begin() as connection:
            migrate(connection)

    def _read_trial(self, work: Work[T]) -> T:
        return self._readers.do(lambda: self._try(self._trying, work))

    def _write_trial(self, work: Work[T]) -> T:
        return self._group.alone(lambda: self._try(self._trying_to_write, work))

    def _try(self, engine: sa.Engine, work: Work[T]) -> T:
        """The work on a connection of its own: older ones may be of a file that is gone.

        After a failure those are closed.  SQLite opens a file that is read-only just for reading,
        and as long as one such connection is there, no other of the process can write.
        """
        if self._failing():
            self._close_kept()
        with engine.begin() as connection:
            return work(connection)

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
        self._close_kept()

    def _close_kept(self) -> None:
        for kept in self._kept.values():
            with suppress(IndexError):
                while True:
                    kept.pop().close()


class Postgres(Database):
    """A server."""

    kind = "postgresql"

    def __init__(self, url: sa.URL) -> None:
        super().__init__()
        from forwarder.storage.db import (
            postgres_connection,  # who has none does not pay for the driver
        )

        self._deadline = postgres_connection.operation_deadline
        self._engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=8,
            max_overflow=24,
            pool_timeout=postgres_connection.OPERATION_SECONDS,
            pool_pre_ping=True,
        )
        postgres_connection.connect_with_deadlines(self._engine)

    def _read(self, work: Work[T]) -> T:
        with self._deadline(), self._engine.connect() as connection:
            return work(connection)

    def _write(self, work: Work[T]) -> T:
        with self._deadline(), self._engine.begin() as connection:
            done = work(connection)
            self.written += take_written(connection)
            return done

    def _write_at_length(self, work: Work[T]) -> T:
        with self._engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            return work(connection)

    def _prepare(self) -> None:
        if not self._read(is_current):
            self._write_at_length(_migrate_alone)

    def _read_trial(self, work: Work[T]) -> T:
        return self._read(work)

    def _write_trial(self, work: Work[T]) -> T:
        return self._write(work)

    def close(self) -> None:
        super().close()
        self._engine.dispose()


def _migrate_alone(connection: sa.Connection) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    migrate(connection)


def _make_private(path: Path) -> None:
    """Let the user of this process alone read a database's files, which are made if need be.

    SQLite gives the files that it makes beside one the same mode.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE))
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):  # there is none, or it is another user's
            file = path.with_name(name)
            if file.stat().st_mode & 0o077:
                file.chmod(_MODE)


def _engine(path: Path, patience: float) -> sa.Engine:
    """An engine whose connections wait so many seconds for other writers."""
    # Connections go from thread to thread, but are in one at a time.
    given = {"check_same_thread": False, "timeout": patience}
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, poolclass=NullPool, connect_args=given)
    sa.event.listen(engine, "connect", _configure)
    sa.event.listen(engine, "begin", _begin)
    return engine


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
    deadline = time.monotonic() + _TRIAL_PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            pause(0.02)


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _leave_nothing(connection: sa.Connection, size: int) -> None:
    """Write so many bytes, and delete them again."""
    name = f"trial {random_id('t')}".ljust(size, ".")
    connection.execute(sa.insert(chores).values(name=name, due=0.0))
    connection.execute(sa.delete(chores).where(chores.c.name == name))


_LOST_A_RACE = ("40", "55P03")
"""PostgreSQL's codes for a transaction that was in the way of another one."""

_READ_ONLY = "25006"
"""PostgreSQL's code when it cannot be written, such as a replica."""


def _is_outage(error: BaseException) -> bool:
    """Does the database not work, rather than refuse this one statement?"""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if type(cause).__name__ == "ProgramLimitExceeded" or "too many SQL variables" in str(cause):
        return False  # one statement was too large
    if isinstance(cause, (OSError, PoolTimeout)) or type(cause) is sqlite3.DatabaseError:
        return True
    code = getattr(cause, "sqlstate", None) or ""
    if code == _READ_ONLY or code.startswith(_LOST_A_RACE):
        return code == _READ_ONLY
    return "OperationalError" in {kind.__name__ for kind in type(cause).__mro__}


def _reason(error: BaseException) -> str:
    """What anybody may read: no path, no address and no name of a user."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        return cause.strerror or type(cause).__name__
    return str(cause) if isinstance(cause, sqlite3.Error) else type(cause).__name__


def _said(error: BaseException) -> str:
    """What the driver says; the statement and its values are nobody's business."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(cause).__name__}: {cause}"
