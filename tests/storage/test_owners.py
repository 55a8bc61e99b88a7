"""Owners: derived with a sealed key, taken over from older versions, and left alone by rotation."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.context.client_identity import ANONYMOUS, digest_key, is_guessable
from forwarder.core.errors import StoreUnavailable
from forwarder.storage import owners as module
from forwarder.storage.db import completions, conversations
from forwarder.storage.db import owners as stored
from forwarder.storage.db.completions import Completion
from forwarder.storage.db.conversations import Talk
from forwarder.storage.db.database import Database, Postgres, Sqlite
from forwarder.storage.owners import Owners
from tests.live.postgres import needs_postgres, running_postgres

OLD = digest_key("k")


def add(database: Database, owner: str, name: str = "chat_1") -> None:
    completion = Completion(name, 1.0, "m", {}, [], {})
    database.write(partial(completions.add, owner=owner, completion=completion))


def names(database: Database, owner: str) -> set[str]:
    listed = partial(
        completions.listed, owner=owner, after=None, most=9, falling=False, model=None, metadata={}
    )
    return {completion.id for completion in database.read(listed)}


def test_a_key_has_one_owner_for_all_workers_and_another_in_another_database(
    database: Sqlite, tmp_path: Path
) -> None:
    elsewhere = Sqlite(tmp_path / "other.db")
    one, two, far = (Owners(d, ["s"]) for d in (database, database, elsewhere))

    assert one.find("k") == two.find("k") == one.derive("k")
    assert len({one.find("k"), one.find("l"), far.find("k"), OLD}) == 4
    elsewhere.close()


def test_the_database_has_nothing_to_test_guesses_with(database: Sqlite) -> None:
    owners = Owners(database, ["s"])
    add(database, owners.find("k"))

    [(_, sealed)] = database.read(stored.list_keys)
    files = b"".join(p.read_bytes() for p in database.path.parent.glob("state.db*"))
    assert owners.find("k").encode() in files
    assert OLD.encode() not in files
    assert owners._keys[0].hex().encode() not in files
    assert Owners(database, ["guess"])._open([("", sealed)]) == []


@pytest.mark.parametrize("secrets", [[], ["s"]])
def test_clients_without_a_key_stay_one_owner(database: Sqlite, secrets: list[str]) -> None:
    owners = Owners(database, secrets)
    add(database, ANONYMOUS)

    assert owners.find(None) == owners.find("") == owners.derive(None) == ANONYMOUS
    owners.rotate()
    assert names(database, ANONYMOUS) == {"chat_1"}


def test_without_a_secret_or_a_database_owners_are_digests(database: Sqlite) -> None:
    add(database, OLD)

    assert Owners(database, []).find("k") == Owners(None, ["s"]).find("k") == OLD
    assert names(database, OLD) == {"chat_1"}
    assert Owners(database, []).settle(OLD) == OLD
    assert database.read(stored.list_keys) == []


def test_what_older_versions_stored_is_taken_over_on_first_sight(database: Sqlite) -> None:
    add(database, OLD)
    add(database, digest_key("l"), "another's")
    owners = Owners(database, ["s"])

    owner = owners.find("k")

    assert (names(database, owner), names(database, OLD)) == ({"chat_1"}, set())
    assert names(database, digest_key("l")) == {"another's"}


def test_a_client_is_looked_after_once_in_a_while(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = Owners(database, ["s"])
    owner = owners.find("k")
    add(database, OLD)  # by a worker of the older version

    with monkeypatch.context() as patch:
        patch.setattr(database, "read", lambda work: pytest.fail("was looked after already"))
        assert owners.find("k") == owner
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
    assert owners.find("k") == owner
    assert names(database, owner) == {"chat_1"}


def test_of_many_clients_the_latest_are_known(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_CHECKED", 2)
    owners = Owners(database, ["s"])
    for key in ("a", "b", "c"):
        owners.find(key)

    assert [*owners._checked] == [digest_key("b"), digest_key("c")]


def test_a_conversation_that_goes_on_is_taken_over_when_its_turn_is_over(database: Sqlite) -> None:
    database.write(lambda c: conversations.create(c, OLD, Talk("conv_1", 1.0, {})))
    database.write(lambda c: conversations.take(c, OLD, "conv_1", "turn"))
    owners = Owners(database, ["s"])

    assert owners.settle(OLD) == OLD
    owner = owners.find("k")
    assert database.read(lambda c: conversations.find(c, owner, "conv_1")) is None
    database.write(lambda c: conversations.release(c, OLD, "conv_1", "turn"))

    assert owners.find("k") == owner
    assert database.read(lambda c: conversations.find(c, owner, "conv_1")) is not None


def test_while_nothing_can_be_written_things_are_found_where_they_are(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, OLD)
    owners = Owners(database, ["s"])
    with monkeypatch.context() as patch:
        patch.setattr(database, "write_at_length", fail)
        assert owners.find("k") == OLD

    assert owners.find("k") == owners.derive("k") != OLD


def fail(*_: object) -> Any:
    raise StoreUnavailable


def test_a_worker_that_starts_without_its_database_has_the_same_owners_later(
    database: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    owner = Owners(database, ["s"]).find("k")
    with monkeypatch.context() as patch:
        patch.setattr(database, "read", fail)
        late = Owners(database, ["s"])
        assert late.find("k") == late.derive("k") == OLD

    assert late.find("k") == owner
    with monkeypatch.context() as patch:
        patch.setattr(database, "read", fail)
        beside = Owners(database, ["s"])
    wait_until_loaded(beside)
    assert beside.derive("k") == owner


def wait_until_loaded(owners: Owners) -> None:
    deadline = time.monotonic() + 5
    while not owners._keys:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_secret_that_is_read_later_is_adopted(database: Sqlite) -> None:
    late = Owners(database, [])
    late.adopt(["s"])

    assert late.find("k") == Owners(database, ["s"]).find("k") != OLD


# -- other secrets --------------------------------------------------------------------------------


def test_a_change_of_the_secret_changes_no_owner(database: Sqlite) -> None:
    owner = Owners(database, ["old"]).find("k")
    both = Owners(database, ["new", "old"])
    assert both.find("k") == owner

    both.rotate()

    assert Owners(database, ["new"]).find("k") == owner
    assert both.find("k") == owner
    assert Owners(database, ["old"])._keys != both._keys, "it opens nothing any more"


def test_a_rotation_leaves_no_owner_that_can_be_guessed(database: Sqlite) -> None:
    """Not even of clients that never come back."""
    for key in ("k", "l"):
        add(database, digest_key(key))
    owners = Owners(database, ["s"])

    owners.rotate()

    everybody = database.read(stored.list_owners)
    assert everybody == {owners.derive("k"), owners.derive("l")}
    assert not any(map(is_guessable, everybody))


def test_what_was_stored_under_another_secret_is_taken_over_when_both_are_there(
    database: Sqlite,
) -> None:
    first, other = Owners(database, ["first"]), Owners(database, ["other"])
    add(database, first.find("k"), "chat_1")
    add(database, other.find("k"), "chat_2")
    assert first.find("k") != other.find("k")

    both = Owners(database, ["other", "first"])

    assert both.find("k") == first.find("k")
    assert names(database, both.find("k")) == {"chat_1", "chat_2"}


def test_rows_are_settled_without_their_client(database: Sqlite) -> None:
    add(database, OLD)
    owners = Owners(database, ["s"])

    owner = owners.settle(OLD)

    assert owner == owners.settle(owner) == owners.derive("k")
    assert names(database, owner) == {"chat_1"}


# -- several processes ----------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared.db"
    else:
        with running_postgres() as made:
            yield made


def open_one(url: str) -> Database:
    parsed = sa.make_url(url)
    is_file = parsed.drivername == "sqlite"
    made: Database = Sqlite(Path(str(parsed.database))) if is_file else Postgres(parsed)
    made.prepare()
    return made


def find_owner(url: str, barrier: Any, found: Any) -> None:
    database = open_one(url)
    barrier.wait(60)
    owner = Owners(database, ["s"]).find("k")
    found.put((owner, len(names(database, owner))))
    database.close()


def test_processes_that_see_a_client_at_once_move_its_things_once(url: str) -> None:
    database = open_one(url)
    for number in range(5):
        add(database, OLD, f"chat_{number}")
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(3), context.Queue()
    workers = [context.Process(target=find_owner, args=(url, barrier, found)) for _ in range(3)]
    for worker in workers:
        worker.start()
    results = {found.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(results) == 1
    [(owner, rows)] = results
    assert (rows, len(names(database, owner)), names(database, OLD)) == (5, 5, set())
    assert len(database.read(stored.list_keys)) == 1
    database.close()
