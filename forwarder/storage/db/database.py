"""The database: SQLite in native threads, PostgreSQL on the event loop.

SQLite blocks. Therefore native threads run its transactions: a few readers and one writer, because
SQLite has a single writer anyway. The busy timeout waits for writers of other processes. The
PostgreSQL driver waits in ``select``, which gevent patches, so it needs no threads.

After a failure, requests fail at once until a trial in the background succeeds. Reads and writes
have separate circuit breakers, because a full disk can still be read.
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

from forwarder.core.blocking_work import BlockingPool, native_sleep
from forwarder.core.errors import StoreUnavailable
from forwarder.core.ids import generate_id
from forwarder.core.storage_breaker import SharedTask, StorageBreaker
from forwarder.storage.db.compression import pop_written
from forwarder.storage.db.lease_expiry import StabilityMonitor
from forwarder.storage.db.migrate import UnknownSchemaVersion, is_current, migrate
from forwarder.storage.db.statements import Statement
from forwarder.storage.db.tables import scheduled_jobs
from forwarder.storage.db.write_batching import DatabaseWork, WriteBatcher

log = logging.getLogger("forwarder.store")

T = TypeVar("T")

FILE_MODE = 0o600
READER_THREADS = 4
BUSY_TIMEOUT_SECONDS = 30.0
"""Seconds to wait for other writers."""

TRIAL_TIMEOUT_SECONDS = 5.0
"""Seconds to wait for other writers at startup and in a trial."""

CHECK_TIMEOUT_SECONDS = 1.0
"""Seconds that ``GET /ready`` waits for the database."""

DATABASE_ERRORS = (SQLAlchemyError, OSError, sqlite3.Error, UnknownSchemaVersion)

MIGRATION_LOCK_ID = 0x666F7277
"""The advisory lock under which a PostgreSQL database is migrated."""

IMMEDIATE_OPTION = "forwarder_immediate"

BEGIN, BEGIN_IMMEDIATE = Statement("BEGIN"), Statement("BEGIN IMMEDIATE")
CHECKPOINT = Statement("PRAGMA wal_checkpoint(TRUNCATE)")
VACUUM = "PRAGMA incremental_vacuum(20000)"


class Database:
    """A database; ``prepare`` creates its tables and is retried until it succeeds.

    ``recovery_callbacks`` run when reads or writes work again, before any request uses them.
    ``written_bytes`` counts the bytes that this process stored since the last pruning.
    ``is_stable`` returns whether expired leases may be evaluated.
    """

    kind = ""
    trial_bytes = 1
    """Size of a trial write: on a full disk a few bytes may still fit."""

    def __init__(self) -> None:
        self.close_event = threading.Event()
        self.recovery_callbacks: list[Callable[[], object]] = []
        self.written_bytes = 0
        self._is_prepared = False
        self._prepare_lock = threading.Lock()
        self.read_breaker = StorageBreaker(
            self._try_read, self._log_read_state, make_public_reason, stop=self.close_event
        )
        self.write_breaker = StorageBreaker(
            partial(self._try_write, self.trial_bytes),
            self._log_write_state,
            make_public_reason,
            stop=self.close_event,
        )
        probe = partial(write_and_delete, size=self.trial_bytes)
        self._stability = StabilityMonitor(lambda: self.write(probe))
        self.is_stable = self._stability.is_stable
        self._check_task = SharedTask(self._run_check)
        self._checked_at = float("-inf")

    def prepare(self) -> None:
        """Create or migrate the tables. Raises StoreUnavailable."""
        with self._prepare_lock:
            if not self._is_prepared:
                self._convert_errors(self._create_tables, self.read_breaker, self.write_breaker)
                self._is_prepared = True

    def start(self) -> None:
        """Prepare the database and check that it is writable. Raises StoreUnavailable."""
        self.prepare()
        self._run_trial(partial(self._try_write, self.trial_bytes), self.write_breaker)

    def read(self, work: DatabaseWork[T]) -> T:
        """Run ``work``, which must not write, and return its result. Raises StoreUnavailable."""
        return self._run_work(lambda: self._run_read(work), self.read_breaker)

    def write(self, work: DatabaseWork[T]) -> T:
        """Run ``work`` in one transaction, which is durable on return. Raises StoreUnavailable."""
        return self._run_monitored_write(lambda: self._run_write(work))

    def write_if_possible(self, work: DatabaseWork[object]) -> None:
        """Like `write`, for a write that the caller does not need, such as a last use.

        Does nothing while the database is not writable, because a full disk can still be read. A
        failure is logged only.
        """
        if not self.write_breaker.is_open:
            with suppress(StoreUnavailable):
                self.write(work)

    def write_without_timeout(self, work: DatabaseWork[T]) -> T:
        """Like `write`, without a statement timeout."""
        return self._run_monitored_write(lambda: self._run_write_without_timeout(work))

    def find_error(self, max_age: float) -> str | None:
        """Return the current error, or None.

        Checks the database first if the last check is more than ``max_age`` seconds old.
        """
        is_old = time.monotonic() - self._checked_at > max_age
        if is_old and not self.get_error() and not self._check_task.run(CHECK_TIMEOUT_SECONDS):
            return f"No answer within {CHECK_TIMEOUT_SECONDS:g} s."
        return self.get_error()

    def get_error(self) -> str | None:
        """Return the error of an open breaker, or None, without a check of the database."""
        return self.read_breaker.error or self.write_breaker.error

    def _run_monitored_write(self, write: Callable[[], T]) -> T:
        try:
            return self._run_work(write, self.write_breaker)
        except StoreUnavailable:
            self._stability.restart()
            raise

    def _run_work(self, work: Callable[[], T], breaker: StorageBreaker) -> T:
        if breaker.is_open:
            raise StoreUnavailable
        if not self._is_prepared:
            self.prepare()
        return self._convert_errors(work, breaker)

    def _convert_errors(self, work: Callable[[], T], *breakers: StorageBreaker) -> T:
        try:
            return work()
        except DATABASE_ERRORS as error:
            log.error(
                "database error: %s", describe_error(error), extra={"event": "database_error"}
            )
            self._trip_breakers(error, *breakers)
            raise StoreUnavailable from None

    def _trip_breakers(self, error: BaseException, *breakers: StorageBreaker) -> None:
        if isinstance(error, DATABASE_ERRORS) and is_outage(error):
            for breaker in breakers:
                breaker.trip(make_public_reason(error))

    # -- trials ---------------------------------------------------------------------------------

    def _try_read(self) -> None:
        self._prepare_again()
        self._run_read_trial(lambda c: c.execute(sa.select(scheduled_jobs.c.name)).all())

    def _try_write(self, size: int) -> None:
        self._prepare_again()
        self._run_write_trial(partial(write_and_delete, size=size))

    def _run_trial(self, trial: Callable[[], object], breaker: StorageBreaker) -> None:
        """Run a trial; any database error opens the breaker."""
        try:
            trial()
        except DATABASE_ERRORS as error:
            log.error(
                "database error: %s", describe_error(error), extra={"event": "database_error"}
            )
            breaker.trip(make_public_reason(error))
            raise StoreUnavailable from None

    def _prepare_again(self) -> None:
        """Create the tables if they are missing: an operator may have replaced the database."""
        with self._prepare_lock:
            self._create_tables()
            self._is_prepared = True

    def _run_check(self) -> None:
        for breaker, trial in (
            (self.read_breaker, self._try_read),
            (self.write_breaker, partial(self._try_write, 1)),
        ):
            with suppress(StoreUnavailable):
                self._run_trial(trial, breaker)
        self._checked_at = time.monotonic()

    def _log_read_state(self, error: str | None) -> None:
        if error is None:
            log.warning("the database can be read again", extra={"event": "database_readable"})
            self._run_recovery_callbacks()
        else:
            log.error(
                "the database cannot be read; requests that need it fail until it can",
                extra={"event": "database_unreadable"},
            )

    def _log_write_state(self, error: str | None) -> None:
        if error is None:
            log.warning("the database is writable again", extra={"event": "database_writable"})
            self._run_recovery_callbacks()
        else:
            log.error(
                "the database is not writable; requests that must write fail until it is",
                extra={"event": "database_unwritable"},
            )

    def _run_recovery_callbacks(self) -> None:
        for callback in self.recovery_callbacks:
            callback()

    # -- implemented by each database -----------------------------------------------------------

    def _create_tables(self) -> None:
        raise NotImplementedError

    def _run_read(self, work: DatabaseWork[T]) -> T:
        raise NotImplementedError

    def _run_write(self, work: DatabaseWork[T]) -> T:
        raise NotImplementedError

    def _run_write_without_timeout(self, work: DatabaseWork[T]) -> T:
        return self._run_write(work)

    def _run_read_trial(self, work: DatabaseWork[T]) -> T:
        raise NotImplementedError

    def _run_write_trial(self, work: DatabaseWork[T]) -> T:
        raise NotImplementedError

    def reclaim_space(self) -> None:
        """Return the space of deleted rows to the file system."""

    def erase_overwritten(self) -> None:
        """Remove overwritten data from the files. Database servers do so on their own."""

    def close(self) -> None:
        """Close all connections and stop background tasks."""
        self.close_event.set()


class SqliteDatabase(Database):
    """An SQLite file."""

    kind = "sqlite"
    trial_bytes = 2**16

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._read_engine = make_engine(path, BUSY_TIMEOUT_SECONDS)
        self._write_engine = self._read_engine.execution_options(**{IMMEDIATE_OPTION: True})
        self._trial_read_engine = make_engine(path, TRIAL_TIMEOUT_SECONDS)
        self._trial_write_engine = self._trial_read_engine.execution_options(
            **{IMMEDIATE_OPTION: True}
        )
        self._reader_pool = BlockingPool(READER_THREADS)
        self._write_batcher = WriteBatcher(
            self._run_write_transaction,
            lambda error: self._trip_breakers(error, self.write_breaker),
        )
        self._idle_connections: dict[sa.Engine, deque[sa.Connection]] = {
            self._read_engine: deque(),
            self._write_engine: deque(),
        }

    def _run_read(self, work: DatabaseWork[T]) -> T:
        return self._reader_pool.run(lambda: self._run_in_transaction(self._read_engine, work))

    def _run_write(self, work: DatabaseWork[T]) -> T:
        return self._write_batcher.run_in_batch(work)

    def _run_write_transaction(self, work: DatabaseWork[T]) -> T:
        if self.write_breaker.is_open:  # another write has failed while this one was queued
            raise StoreUnavailable
        return self._run_in_transaction(self._write_engine, work)

    def _run_in_transaction(self, engine: sa.Engine, work: DatabaseWork[T]) -> T:
        """Run ``work`` in one transaction on an exclusive connection."""
        idle = self._idle_connections[engine]
        try:
            connection = idle.pop()
        except IndexError:
            connection = engine.connect()
        try:
            with connection.begin():
                result = work(connection)
                self.written_bytes += pop_written(connection)
        except DBAPIError:
            connection.close()
            raise
        except BaseException:
            idle.append(connection)
            raise
        idle.append(connection)
        return result

    def _create_tables(self) -> None:
        self._write_batcher.run_alone(self._create_file)

    def _create_file(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        make_private(self.path)
        with self._trial_read_engine.connect() as connection:
            plain: Any = connection.connection.driver_connection
            if plain.execute("PRAGMA page_count").fetchone() == (0,):
                # Has an effect only in an empty file.
                plain.execute("PRAGMA auto_vacuum=INCREMENTAL")
            enable_wal(plain)
            with connection.begin():
                if is_current(connection):  # checked without the write lock
                    return
        with self._trial_write_engine.begin() as connection:
            migrate(connection)

    def _run_read_trial(self, work: DatabaseWork[T]) -> T:
        return self._reader_pool.run(
            lambda: self._run_on_new_connection(self._trial_read_engine, work)
        )

    def _run_write_trial(self, work: DatabaseWork[T]) -> T:
        return self._write_batcher.run_alone(
            lambda: self._run_on_new_connection(self._trial_write_engine, work)
        )

    def _run_on_new_connection(self, engine: sa.Engine, work: DatabaseWork[T]) -> T:
        """Run ``work`` on a new connection: idle ones may refer to a file that was replaced.

        After a failure, idle connections are closed. SQLite opens a read-only file without write
        access, and while such a connection exists, no other connection of the process can write.
        """
        if self.get_error():
            self._close_idle_connections()
        with engine.begin() as connection:
            return work(connection)

    def reclaim_space(self) -> None:
        """Return free pages to the file system."""

        def vacuum() -> None:
            with self._read_engine.connect() as connection:
                plain: Any = connection.connection.driver_connection
                try:
                    plain.executescript(VACUUM)  # execute() would free a single page
                except plain.Error as error:
                    raise DBAPIError(VACUUM, None, error) from error

        self._convert_errors(lambda: self._write_batcher.run_alone(vacuum))

    def erase_overwritten(self) -> None:
        """Remove overwritten and deleted data from the write-ahead log too."""

        def checkpoint() -> None:
            with self._read_engine.connect() as connection:
                [(busy, *_)] = CHECKPOINT.fetch_rows(connection, {})
            if busy:
                log.warning(
                    "%s-wal is in use and still contains overwritten data",
                    self.path,
                    extra={"event": "wal_checkpoint_busy"},
                )

        self._convert_errors(lambda: self._write_batcher.run_alone(checkpoint))

    def close(self) -> None:
        super().close()
        self._write_batcher.close()
        self._reader_pool.close()
        self._close_idle_connections()

    def _close_idle_connections(self) -> None:
        for idle in self._idle_connections.values():
            with suppress(IndexError):
                while True:
                    idle.pop().close()


class PostgresqlDatabase(Database):
    """A PostgreSQL server."""

    kind = "postgresql"

    def __init__(self, url: sa.URL) -> None:
        super().__init__()
        # Imported only if needed: SQLite works without the PostgreSQL driver.
        from forwarder.storage.db import postgres_connection

        self._operation_deadline = postgres_connection.operation_deadline
        self._engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=8,
            max_overflow=24,
            pool_timeout=postgres_connection.OPERATION_TIMEOUT_SECONDS,
            pool_pre_ping=True,
        )
        postgres_connection.connect_with_deadlines(self._engine)

    def _run_read(self, work: DatabaseWork[T]) -> T:
        with self._operation_deadline(), self._engine.connect() as connection:
            return work(connection)

    def _run_write(self, work: DatabaseWork[T]) -> T:
        with self._operation_deadline(), self._engine.begin() as connection:
            result = work(connection)
            self.written_bytes += pop_written(connection)
            return result

    def _run_write_without_timeout(self, work: DatabaseWork[T]) -> T:
        with self._engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            result = work(connection)
            self.written_bytes += pop_written(connection)
            return result

    def _create_tables(self) -> None:
        if not self._run_read(is_current):
            self._run_write_without_timeout(migrate_under_lock)

    def _run_read_trial(self, work: DatabaseWork[T]) -> T:
        return self._run_read(work)

    def _run_write_trial(self, work: DatabaseWork[T]) -> T:
        return self._run_write(work)

    def close(self) -> None:
        super().close()
        # Work that still runs, or starts later, must not leave its connection in a pool.
        sa.event.listen(self._engine, "checkin", lambda connection, record: record.invalidate())
        self._engine.dispose()


def migrate_under_lock(connection: sa.Connection) -> None:
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK_ID)))
    migrate(connection)


def make_private(path: Path) -> None:
    """Make a database's files readable only by this user; create the main file if it is missing.

    SQLite creates its other files with the same mode.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE))
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        with suppress(OSError):  # missing, or owned by another user
            file = path.with_name(name)
            if file.stat().st_mode & 0o077:
                file.chmod(FILE_MODE)


def make_engine(path: Path, timeout: float) -> sa.Engine:
    """Return an engine whose connections wait ``timeout`` seconds for other writers."""
    # A connection moves between threads, but only one uses it at a time.
    connect_args = {"check_same_thread": False, "timeout": timeout}
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, poolclass=NullPool, connect_args=connect_args)
    sa.event.listen(engine, "connect", configure_connection)
    sa.event.listen(engine, "begin", begin_transaction)
    return engine


def configure_connection(connection: Any, record: object) -> None:
    connection.isolation_level = None  # begin_transaction starts transactions
    connection.execute("PRAGMA foreign_keys=ON")
    # Overwrite deleted content with zeros, regardless of SQLite's build options.
    connection.execute("PRAGMA secure_delete=ON")
    # In WAL mode commits survive a process crash; a power failure may lose the latest ones.
    connection.execute("PRAGMA synchronous=NORMAL")


def begin_transaction(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get(IMMEDIATE_OPTION)
    (BEGIN_IMMEDIATE if immediate else BEGIN).run(connection, {})


def enable_wal(connection: Any) -> None:
    """Switch to WAL mode. SQLite does not wait for concurrent switches, so this retries."""
    deadline = time.monotonic() + TRIAL_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            native_sleep(0.02)


def is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def write_and_delete(connection: sa.Connection, size: int) -> None:
    """Insert a row of ``size`` bytes and delete it."""
    name = f"trial {generate_id('t')}".ljust(size, ".")
    connection.execute(sa.insert(scheduled_jobs).values(name=name, due=0.0))
    connection.execute(sa.delete(scheduled_jobs).where(scheduled_jobs.c.name == name))


CONFLICT_CODES = ("40", "55P03")
"""PostgreSQL error codes of conflicts between transactions."""

DATA_EXCEPTION_CODE = "22"
"""Begin of PostgreSQL's error codes for invalid values, whose messages quote the value."""

READ_ONLY_CODE = "25006"
"""PostgreSQL error code of a read-only server, such as a replica."""


def is_outage(error: BaseException) -> bool:
    """Whether an error means that the database is unavailable, not that a statement is wrong."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if type(cause).__name__ == "ProgramLimitExceeded" or "too many SQL variables" in str(cause):
        return False  # the statement was too large
    if isinstance(cause, (OSError, PoolTimeout, UnknownSchemaVersion)):
        return True
    if type(cause) is sqlite3.DatabaseError:
        return True
    code = getattr(cause, "sqlstate", None) or ""
    if code == READ_ONLY_CODE:
        return True
    if code.startswith(CONFLICT_CODES):
        return False
    return "OperationalError" in {kind.__name__ for kind in type(cause).__mro__}


def make_public_reason(error: BaseException) -> str:
    """Describe an error without paths, addresses or user names."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        return cause.strerror or type(cause).__name__
    has_message = isinstance(cause, (sqlite3.Error, UnknownSchemaVersion))
    return str(cause) if has_message else type(cause).__name__


def describe_error(error: BaseException) -> str:
    """Describe an error for the log, without the statement and its values.

    The text of an error of PostgreSQL also has details, such as the row that violates a constraint.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    diagnostic = getattr(cause, "diag", None)
    message: object = cause if diagnostic is None else diagnostic.message_primary or cause
    code = getattr(cause, "sqlstate", None) or ""
    if code.startswith(DATA_EXCEPTION_CODE):
        message = code
    return f"{type(cause).__name__}: {message}"
