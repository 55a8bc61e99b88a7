"""Transactions, and their failures."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from forwarder.core.errors import NotFound, StoreUnavailable
from forwarder.storage.db import database as database_module
from forwarder.storage.db.compression import count_written
from forwarder.storage.db.database import Database, SqliteDatabase, describe_error
from forwarder.storage.db.tables import scheduled_jobs

pytestmark = pytest.mark.usefixtures("_migrate_each_database")


def list_names(connection: sa.Connection) -> list[str]:
    return list(
        connection.scalars(sa.select(scheduled_jobs.c.name).order_by(scheduled_jobs.c.name))
    )


def insert_name(connection: sa.Connection, name: str) -> None:
    connection.execute(sa.insert(scheduled_jobs).values(name=name, due=0))


def test_written_rows_are_visible(database: SqliteDatabase) -> None:
    database.write(lambda c: insert_name(c, "a"))
    other = SqliteDatabase(database.path)

    assert other.read(list_names) == ["a"]
    other.close()


def test_write_is_atomic(database: SqliteDatabase) -> None:
    def insert_and_fail(connection: sa.Connection) -> None:
        insert_name(connection, "a")
        raise NotFound("no")

    with pytest.raises(NotFound):
        database.write(insert_and_fail)
    assert database.read(list_names) == []
    database.write(lambda c: insert_name(c, "b"))
    assert database.read(list_names) == ["b"]


def test_database_error_raises_store_unavailable(
    database: SqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    database.write(lambda c: insert_name(c, "secret"))

    with pytest.raises(StoreUnavailable) as failed:
        database.write(lambda c: insert_name(c, "secret"))
    assert (failed.value.status, failed.value.headers) == (503, {"retry-after": "1"})
    assert "IntegrityError" in caplog.text
    assert "secret" not in caplog.text
    assert database.read(list_names) == ["secret"]


@pytest.mark.parametrize("due", ["0), ('secret', 0", "NULL"])
def test_log_of_a_database_error_contains_no_values(
    due: str, any_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    statement = sa.text(f"INSERT INTO chores (name, due) VALUES ('secret', {due})")

    with pytest.raises(StoreUnavailable):
        any_database.write(lambda c: c.execute(statement))

    [record] = caplog.records
    assert "constraint" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_invalid_value_is_not_logged() -> None:
    error = psycopg.errors.InvalidTextRepresentation('invalid input for type integer: "secret"')

    described = describe_error(sa.exc.DBAPIError("SELECT", None, error))

    assert described == "InvalidTextRepresentation: 22P02"


@pytest.mark.parametrize("method", ["write", "write_without_timeout"])
def test_each_write_is_counted_and_its_failure_restarts_the_stability(
    method: str, any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, restarts = getattr(any_database, method), list[None]()
    monkeypatch.setattr(any_database._stability, "restart", lambda: restarts.append(None))
    before = any_database.written_bytes

    write(lambda c: count_written(c, 100))
    with pytest.raises(StoreUnavailable):
        write(lambda c: c.execute(sa.text("SELECT nothing")))

    assert any_database.written_bytes == before + 100
    assert len(restarts) == 1


def test_optional_write_is_skipped_or_fails_silently(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database.write_if_possible(lambda c: insert_name(c, "a"))
    database.write_if_possible(lambda c: insert_name(c, "a"))
    assert "IntegrityError" in caplog.text

    with monkeypatch.context() as patch:
        patch.setattr(database.write_breaker, "error", "disk is full")
        database.write_if_possible(lambda c: insert_name(c, "b"))

    assert database.read(list_names) == ["a"]


def test_writers_are_serialized(database: SqliteDatabase) -> None:
    other = SqliteDatabase(database.path)
    other.prepare()

    def insert_names(one: SqliteDatabase, mark: str) -> None:
        for number in range(40):
            one.write(lambda c, number=number: insert_name(c, f"{mark}{number}"))  # type: ignore[misc]

    writers = [
        threading.Thread(target=insert_names, args=(one, f"{mark}{i}"))
        for i in range(3)
        for one, mark in ((database, "a"), (other, "b"))
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(database.read(list_names)) == 240
    other.close()


def test_free_pages_are_reclaimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_SECONDS", 0.05)
    database = SqliteDatabase(tmp_path / "x.db")
    database.write(lambda c: insert_name(c, "x" * 100_000))
    database.write(lambda c: c.execute(sa.delete(scheduled_jobs)))
    other = sqlite3.connect(database.path, isolation_level=None)

    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        database.reclaim_space()
    other.execute("ROLLBACK")
    assert other.execute("PRAGMA freelist_count").fetchone() > (10,)
    database.reclaim_space()
    assert other.execute("PRAGMA freelist_count").fetchone() == (0,)
    other.close()
    database.close()


def test_unusable_path_is_retried(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a file")
    database = SqliteDatabase(tmp_path / "there" / "x.db")
    database.read_breaker._pause = 0.05
    with pytest.raises(StoreUnavailable):
        database.prepare()
    with pytest.raises(StoreUnavailable):
        database.read(list_names)

    (tmp_path / "there").unlink()
    assert becomes_true(lambda: database.find_error(0.0) is None)
    assert database.read(list_names) == []
    database.close()


def becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "TRIAL_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_SECONDS", 0.2)


@contextmanager
def lock_database(path: Path, statement: str = "BEGIN EXCLUSIVE") -> Iterator[None]:
    """Another process with a long write transaction."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute(statement)
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.mark.usefixtures("short_timeouts")
def test_file_that_is_locked_when_a_worker_starts_is_used_once_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.db").touch()
    database = SqliteDatabase(tmp_path / "x.db")
    with lock_database(database.path):
        with pytest.raises(StoreUnavailable):
            database.start()
        assert "database is locked" in str(database.find_error(60.0))

    assert becomes_true(lambda: database.find_error(60.0) is None)
    database.write(lambda c: insert_name(c, "a"))
    assert "database is locked" in caplog.text
    assert "can be read again" in caplog.text
    database.close()


@pytest.mark.usefixtures("short_timeouts")
def test_file_that_is_locked_for_writers_can_be_read(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "x.db")
    database.start()
    database.close()
    database = SqliteDatabase(tmp_path / "x.db")
    with lock_database(database.path, "BEGIN IMMEDIATE"):
        with pytest.raises(StoreUnavailable):
            database.start()
        assert database.read(list_names) == []
        with pytest.raises(StoreUnavailable):
            database.write(lambda c: insert_name(c, "a"))

    assert becomes_true(lambda: database.find_error(60.0) is None)
    assert database.read(list_names) == []
    database.close()


@pytest.mark.usefixtures("short_timeouts")
def test_writers_of_a_locked_file_fail_together(tmp_path: Path) -> None:
    """Waiting one after the other would take hours."""
    database = SqliteDatabase(tmp_path / "x.db")
    database.start()
    failures: list[StoreUnavailable] = []

    def write(name: str) -> None:
        try:
            database.write(lambda c: insert_name(c, name))
        except StoreUnavailable as failure:
            failures.append(failure)

    with lock_database(database.path, "BEGIN IMMEDIATE"):
        started = time.monotonic()
        writers = [threading.Thread(target=write, args=(f"{i}",)) for i in range(60)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        seconds = time.monotonic() - started

    assert len(failures) == 60
    assert seconds < 60 * 0.3 / 2
    assert database.read(list_names) == []
    database.close()


def test_corrupt_database_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"nonsense" * 1000)
    database = SqliteDatabase(tmp_path / "x.db")

    with pytest.raises(StoreUnavailable):
        database.start()

    assert "not a database" in str(database.find_error(60.0))
    database.close()


def test_refused_statement_is_no_outage(database: SqliteDatabase) -> None:
    database.write(lambda c: insert_name(c, "a"))
    with pytest.raises(StoreUnavailable):
        database.write(lambda c: insert_name(c, "a"))

    assert database.find_error(60.0) is None
    database.write(lambda c: insert_name(c, "b"))
    assert database.read(list_names) == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "is_outage"),
    [
        (psycopg.errors.DeadlockDetected(), False),
        (psycopg.errors.SerializationFailure(), False),
        (psycopg.errors.LockNotAvailable(), False),
        (psycopg.errors.UniqueViolation(), False),
        (psycopg.errors.ReadOnlySqlTransaction(), True),
        (psycopg.errors.DiskFull(), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg.OperationalError("the server does not respond"), True),
    ],
)
def test_outage_detection(
    database: SqliteDatabase,
    error: psycopg.Error,
    is_outage: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trips: list[str] = []  # the breaker itself closes again as soon as its trial succeeds
    monkeypatch.setattr(database.write_breaker, "trip", trips.append)

    def fail(connection: sa.Connection) -> None:
        raise sa.exc.DBAPIError("INSERT", None, error)

    with pytest.raises(StoreUnavailable):
        database.write(fail)

    assert bool(trips) is is_outage


def test_failed_trial_opens_the_breaker(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    permission_error = sa.exc.ProgrammingError(
        "INSERT", None, psycopg.errors.InsufficientPrivilege()
    )

    def refuse(work: object) -> None:
        raise permission_error

    monkeypatch.setattr(database, "_run_write_trial", refuse)

    assert database.find_error(0.0) == "InsufficientPrivilege"
    with pytest.raises(StoreUnavailable):
        database.write(lambda c: insert_name(c, "a"))
    assert not database.read_breaker.is_open


@pytest.mark.parametrize("mode", [None, 0o644, 0o666])
def test_database_files_are_private(mode: int | None, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    if mode is not None:  # created by an earlier version that was killed
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            (tmp_path / name).touch()
            (tmp_path / name).chmod(mode)
    before = os.umask(0)
    try:
        database = SqliteDatabase(path)
        database.start()
        database.write(lambda c: insert_name(c, "a"))
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    database.close()

    assert {"state.db", "state.db-wal", "state.db-shm"} <= modes.keys()
    assert set(modes.values()) == {0o600}
