"""Change notifiers detect changes by other workers and cost little otherwise."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forwarder.core.errors import StoreUnavailable
from forwarder.core.storage_breaker import MAX_WAIT_SECONDS
from forwarder.storage.db.change_notifier import (
    FILE_LEASE_SECONDS,
    FileChangeNotifier,
    PollingChangeNotifier,
    make_change_notifier,
)
from forwarder.storage.db.database import PostgresqlDatabase, SqliteDatabase


def test_each_file_change_has_another_version(tmp_path: Path) -> None:
    first_worker, second_worker = (FileChangeNotifier(tmp_path / "x.models") for _ in range(2))
    marks = [second_worker.read_version()]
    for _ in range(50):  # many within one tick of the file system clock
        first_worker.publish_change()
        marks.append(second_worker.read_version())

    assert len(set(marks)) == 51
    assert second_worker.read_version() == marks[-1]


def test_file_is_read_once_per_lease(tmp_path: Path) -> None:
    path, now = tmp_path / "x.models", 100.0
    changes = FileChangeNotifier(path, lambda: now)
    assert changes.read_version() is None

    path.write_bytes(b".")
    assert changes.read_version() is None

    now += FILE_LEASE_SECONDS
    assert changes.read_version() == (path.stat().st_ino, 1)


def test_publisher_of_a_file_change_sees_it_at_once(tmp_path: Path) -> None:
    path, began = tmp_path / "x.models", time.monotonic()
    changes = FileChangeNotifier(path, lambda: 100.0)
    changes.read_version()

    changes.publish_change()

    assert changes.read_version() == (path.stat().st_ino, 1)
    assert time.monotonic() - began >= FILE_LEASE_SECONDS


def test_file_is_private(tmp_path: Path) -> None:
    FileChangeNotifier(tmp_path / "x.models").publish_change()

    assert (tmp_path / "x.models").stat().st_mode & 0o777 == 0o600


def test_file_of_another_user_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.models"
    path.write_bytes(b".")
    before = FileChangeNotifier(path).read_version()
    open_file = os.open

    def open_own(name: Any, *arguments: Any, **options: Any) -> int:
        if Path(name) == path:
            raise PermissionError
        return open_file(name, *arguments, **options)

    monkeypatch.setattr(os, "open", open_own)
    FileChangeNotifier(path).publish_change()

    assert FileChangeNotifier(path).read_version() != before
    assert path.stat().st_mode & 0o777 == 0o600


class Server:
    """Serves the number of changes."""

    def __init__(self) -> None:
        self.number = self.read_count = 0
        self.time = 100.0
        self.is_down = False
        self.changes = PollingChangeNotifier(self.read_number, 0.1, lambda: self.time)

    def read_number(self) -> int:
        self.read_count += 1
        if self.is_down:
            raise StoreUnavailable
        return self.number


def test_server_is_read_once_per_lease() -> None:
    server = Server()
    assert server.changes.read_version() == server.changes.read_version() == 0
    server.number = 1
    assert server.changes.read_version() == 0
    server.time += 0.1
    assert server.changes.read_version() == 1
    assert server.read_count == 2


def test_publisher_waits_for_one_lease() -> None:
    server = Server()
    server.changes.read_version()
    server.number, began = 1, time.monotonic()

    server.changes.publish_change()

    assert time.monotonic() - began >= 0.1
    assert server.changes.read_version() == 1


def test_unavailable_server_keeps_the_last_version() -> None:
    server = Server()
    server.number = 1
    assert server.changes.read_version() == 1
    server.is_down, server.number = True, 2
    for _ in range(3):
        server.time += 1
        assert server.changes.read_version() == 1

    server.is_down = False
    server.time += 1
    assert becomes_true(lambda: server.changes.read_version() == 2)


def test_unexpected_error_is_logged_and_ends_the_read(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.changes.read_version()

    def fail() -> int:
        server.read_count += 1
        raise RuntimeError

    server.changes._read_number = fail
    server.time += 1

    assert server.changes.read_version() == 0
    assert server.read_count == 2
    assert not server.changes.is_current()
    assert [record.event for record in caplog.records] == ["change_number_unreadable"]


def test_hanging_server_delays_no_request() -> None:
    free = threading.Event()

    def hang() -> int:
        free.wait(20)
        return 1

    changes = PollingChangeNotifier(hang)
    started = time.monotonic()
    assert [changes.read_version() for _ in range(200)] == [None] * 200
    seconds = time.monotonic() - started

    free.set()
    assert seconds < 200 * MAX_WAIT_SECONDS / 2, "more than one call waited"
    assert becomes_true(lambda: changes.read_version() == 1)


def test_read_that_began_before_a_change_is_repeated_after_it() -> None:
    server, began, free, joined = Server(), *(threading.Event() for _ in range(3))

    def read_slowly() -> int:
        number = server.number
        began.set()
        free.wait(10)
        return number

    changes = PollingChangeNotifier(read_slowly, 0.1, lambda: server.time, max_wait=10)
    with ThreadPoolExecutor(2) as threads:
        threads.submit(changes.read_version)
        assert began.wait(10)
        server.number, server.time = 1, 101.0  # the lease of one that read before it is over
        join = changes._refresh_task.run
        changes._refresh_task.run = lambda seconds: joined.set() or join(seconds)  # type: ignore[func-returns-value,method-assign]
        second = threads.submit(changes.read_version)
        assert joined.wait(10)
        free.set()
        assert second.result() == 1


def test_version_is_current_if_the_server_answers_in_time() -> None:
    server, free = Server(), threading.Event()
    assert server.changes.read_version() == 0
    assert server.changes.is_current()
    server.is_down = True
    server.time += 1
    server.changes.read_version()
    assert not server.changes.is_current()

    changes = PollingChangeNotifier(lambda: int(free.wait(10)), max_wait=0.01)
    changes.read_version()
    assert not changes.is_current()
    free.set()
    assert becomes_true(lambda: changes.read_version() == 1 and changes.is_current())


def becomes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_notifier_depends_on_the_database(tmp_path: Path) -> None:
    import sqlalchemy as sa

    server = PostgresqlDatabase(sa.make_url("postgresql://nobody@127.0.0.1:1/x"))
    file = SqliteDatabase(tmp_path / "x.db")

    assert isinstance(make_change_notifier(file, "models", lambda: 0), FileChangeNotifier)
    assert isinstance(make_change_notifier(server, "models", lambda: 0), PollingChangeNotifier)
    server.close()


def test_change_file_shows_possible_changes_without_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notifier = FileChangeNotifier(tmp_path / "x.models")
    assert not notifier.may_have_changes()
    assert not FileChangeNotifier(tmp_path / "none" / "x.models").may_have_changes()
    notifier.publish_change()
    assert notifier.may_have_changes()

    def refuse(path: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "exists", refuse)
    assert notifier.may_have_changes()
    assert PollingChangeNotifier(lambda: 0).may_have_changes()
