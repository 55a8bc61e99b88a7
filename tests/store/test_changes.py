"""Changes that others have made are noticed, and cost next to nothing while there are none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from forwarder.errors import StoreUnavailable
from forwarder.store import changes, models
from forwarder.store.changes import AskedChanges, FileChanges, changes_of
from forwarder.store.database import Postgres, Sqlite


def test_each_change_of_a_file_leaves_another_mark(tmp_path: Path) -> None:
    ours, theirs = (FileChanges(tmp_path / "x.models") for _ in range(2))
    marks = [theirs.mark()]
    for _ in range(50):  # far more than one in a tick of the file system's clock
        ours.tell()
        marks.append(theirs.mark())

    assert len(set(marks)) == 51
    assert theirs.mark() == marks[-1]


def test_the_file_is_its_owner_s(tmp_path: Path) -> None:
    FileChanges(tmp_path / "x.models").tell()

    assert (tmp_path / "x.models").stat().st_mode & 0o777 == 0o600


class Server:
    """Is asked for the number of changes."""

    def __init__(self) -> None:
        self.number = self.asked = 0
        self.time = 100.0
        self.down = False
        self.changes = AskedChanges(self.ask, 0.1, lambda: self.time)

    def ask(self) -> int:
        self.asked += 1
        if self.down:
            raise StoreUnavailable
        return self.number


def test_a_server_is_asked_once_in_a_lease() -> None:
    server = Server()
    assert server.changes.mark() == server.changes.mark() == 0
    server.number = 1
    assert server.changes.mark() == 0
    server.time += 0.1
    assert server.changes.mark() == 1
    assert server.asked == 2


def test_who_changes_something_waits_until_all_have_asked_again() -> None:
    server = Server()
    server.changes.mark()
    server.number, began = 1, time.monotonic()

    server.changes.tell()

    assert time.monotonic() - began >= 0.1
    assert server.changes.mark() == 1


def test_nobody_waits_for_a_server_that_is_known_to_be_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, begun = Server(), []
    monkeypatch.setattr(changes, "spawn", begun.append)
    assert server.changes.mark() == 0
    server.down, server.number = True, 1
    server.time += 1
    assert server.changes.mark() == 0
    server.time += 3
    assert server.changes.mark() == server.changes.mark() == 0
    assert (server.asked, len(begun)) == (2, 1)

    server.down = False
    begun[0]()
    assert server.changes.mark() == 1


def test_each_kind_of_database_has_its_own(tmp_path: Path) -> None:
    import sqlalchemy as sa

    server = Postgres(sa.make_url("postgresql://nobody@127.0.0.1:1/x"))
    file = Sqlite(tmp_path / "x.db")

    assert isinstance(changes_of(file, models.generation), FileChanges)
    assert isinstance(changes_of(server, models.generation), AskedChanges)
    server.close()
